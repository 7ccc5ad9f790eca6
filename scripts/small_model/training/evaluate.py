"""The stage evaluate: four-choice accuracy by likelihood with controls, short answers, word errors.

The rule was fixed before training: of four choices take the one with the highest
``(log p(choice | audio, question) - log p(choice | question)) / tokens of the choice``, where the
question alone is the same prompt with nothing in the audio's place. It does not see the order of
the choices. Everything runs through the merged checkpoint's own class; which audio tokens are kept
is chosen by the runtime's own code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from small_model.training.facts import FactMaker
from small_model.training.features import TOKEN_RATE, WINDOW_S, WINDOW_TOKENS, library
from small_model.training.questions import TRANSCRIPT_REQUESTS
from small_model.training.speaker import Speaker
from small_model.training.text import Dialogue, chance
from small_model.training.voices import RATE, Samples, plain
from speechprune_ort import PruningOptions
from speechprune_ort.choices import AttentionForm
from speechprune_ort.runtime.choosing.pruning import binarize
from speechprune_ort.runtime.choosing.scoring import NumpyScorer
from speechprune_ort.runtime.choosing.selection import select
from speechprune_ort.runtime.hearing.embeddings import HostEmbeds
from speechprune_ort.statistics import Estimate, difference, proportion

PRUNED = re.compile(r"(truncate|random|crop|similarity|attention|speechprune|coverage)@(0?\.\d+)")
TRANSCRIBE = TRANSCRIPT_REQUESTS[0]
MARK = "\0"
PAUSE_S = 0.25  # behind each sentence


def shorten(cache: Any, length: int) -> None:
    """Forget all positions of a cache from ``length`` on."""
    cache.crop(length - cache.get_seq_length())


@dataclass(frozen=True)
class Template:
    """What stands around audio and question.

    Attributes:
        before: Token ids ahead of the audio tokens.
        audio_end: Between them and the question.
        after: Behind the question, up to the answer.
        end: The token behind an answer.
    """

    before: tuple[int, ...]
    audio_end: str
    after: str
    end: int


def read_template(tokenizer: Any) -> Template:
    """Cut the checkpoint's chat template around its slots."""
    content = [{"type": "audio", "audio": ""}, {"type": "text", "text": MARK}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    before, rest = text.split("<|AUDIO|>")
    audio_end, after = rest.split(MARK)
    ids = tuple(tokenizer(before, add_special_tokens=False)["input_ids"])
    return Template(ids, audio_end, after, tokenizer.convert_tokens_to_ids("<|im_end|>"))


class Listener:
    """A merged checkpoint that scores and answers.

    Args:
        folder: Checkpoint folder.
        device: Of torch.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
        load = library.Qwen2AudioForConditionalGeneration.from_pretrained
        self.model: Any = load(folder, dtype=torch.float32).eval().to(device)
        self.processor: Any = library.AutoProcessor.from_pretrained(folder)
        self.tokenizer: Any = self.processor.tokenizer
        self.embeddings = self.model.get_input_embeddings().weight.detach().clone()
        self.model.model.language_model.to(torch.bfloat16)
        self.model.lm_head.to(torch.bfloat16)
        self.template, self.device = read_template(self.tokenizer), device
        self._prefixes: list[tuple[torch.Tensor | None, Any, int]] = []

    @torch.inference_mode()
    def encode(self, samples: Samples) -> torch.Tensor:
        """A recording of any length to audio tokens, (tokens, hidden), in windows of 30 s.

        The padding of the last window is masked, as ``Qwen2AudioModel.forward`` does.
        """
        tokens = []
        tower, extractor = self.model.model.audio_tower, self.processor.feature_extractor
        for start in range(0, len(samples), WINDOW_S * RATE):
            piece = samples[start : start + WINDOW_S * RATE]
            if len(piece) < RATE // 5:
                continue
            made = extractor(
                piece,
                sampling_rate=RATE,
                padding="max_length",
                return_attention_mask=True,
                return_tensors="pt",
            )
            frames = (int(made["attention_mask"].sum()) - 1) // 2 + 1
            mask = torch.zeros(1, 1, 1, WINDOW_S * 50, device=self.device)
            mask[..., frames:] = torch.finfo(torch.float32).min
            with torch.autocast(self.device, torch.bfloat16):
                hidden = tower(
                    made["input_features"].to(self.device), attention_mask=mask
                ).last_hidden_state
            projected = self.model.model.multi_modal_projector(hidden.float())
            tokens.append(projected[0, : (frames - 2) // 2 + 1])
        return torch.cat(tokens)

    @cached_property
    def _signs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Signs of the first layer's Q and K weights, (hidden, heads, head_dim) each.

        A negative gain of the norm ahead of them turns the sign of its input over.
        """
        layer = self.model.model.language_model.layers[0]

        def signs(weight: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(binarize(weight.float().numpy(force=True))).float()

        gains, width = signs(layer.input_layernorm.weight), layer.self_attn.head_dim
        query, key = (
            (signs(part.weight) * gains).T.reshape(len(gains), -1, width)
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        return query, key

    def keep(self, audio: torch.Tensor, question: str, options: PruningOptions) -> torch.Tensor:
        """The audio tokens (kept, hidden) that the runtime would keep of (tokens, hidden)."""
        tokens = audio.numpy(force=True)

        def project(part: npt.NDArray[Any], _: AttentionForm) -> tuple[Any, Any]:
            signs = torch.from_numpy(binarize(part)).float()
            query, key = (torch.tensordot(signs, weight, 1).numpy() for weight in self._signs)
            return query, key

        scorer = NumpyScorer(HostEmbeds(tokens), self.embed(question).numpy(force=True), project)
        kept = select(options, scorer, window_tokens=WINDOW_TOKENS, frame_tokens=TOKEN_RATE)
        return audio[torch.from_numpy(kept.indices)]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def embed(self, text: str) -> torch.Tensor:
        """Token embeddings of a text, (tokens, hidden)."""
        rows: torch.Tensor = self.embeddings[self.ids(text)]
        return rows

    @torch.inference_mode()
    def _heard(self, audio: torch.Tensor | None) -> Any:
        """Cache of the prompt up to the end of the audio; kept for the next question about it."""
        kept = next((entry for entry in self._prefixes if entry[0] is audio), None)
        if kept is None:
            heard = [audio] if audio is not None else []
            prompt = torch.cat([self.embeddings[list(self.template.before)], *heard])
            output = self.model.model.language_model(
                inputs_embeds=prompt[None].to(torch.bfloat16), use_cache=True
            )
            kept = audio, output.past_key_values, len(prompt)
            # That of no audio is short and stays; of the others the last one.
            self._prefixes = [entry for entry in self._prefixes if entry[0] is None] + [kept]
        _, cache, length = kept
        shorten(cache, length)
        return cache

    @torch.inference_mode()
    def read(self, audio: torch.Tensor | None, question: str) -> tuple[torch.Tensor, Any]:
        """Run the prompt; log-probabilities of the next token (vocabulary,) and the cache.

        The cache is good until the next prompt is read.
        """
        cache = self._heard(audio)
        tail = self.embed(self.template.audio_end + question + self.template.after)
        output = self.model.model.language_model(
            inputs_embeds=tail[None].to(torch.bfloat16), past_key_values=cache
        )
        logits = self.model.lm_head(output.last_hidden_state[0, -1])
        return logits.float().log_softmax(-1), cache

    @torch.inference_mode()
    def likelihoods(
        self, audio: torch.Tensor | None, question: str, choices: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Mean log-probability of a token of each choice, (choices,)."""
        first, cache = self.read(audio, question)
        length, means = cache.get_seq_length(), []
        for choice in choices:
            ids = self.ids(choice)
            values = [float(first[ids[0]])]
            if len(ids) > 1:
                hidden = self.model.model.language_model(
                    input_ids=torch.tensor([ids[:-1]], device=self.device), past_key_values=cache
                ).last_hidden_state[0]
                scores = self.model.lm_head(hidden).float().log_softmax(-1)
                values += [float(scores[i, token]) for i, token in enumerate(ids[1:])]
                shorten(cache, length)
            means.append(float(np.mean(values)))
        return np.array(means)

    @torch.inference_mode()
    def answer(self, audio: torch.Tensor | None, question: str, limit: int = 24) -> str:
        """Greedy answer of at most ``limit`` tokens."""
        scores, cache = self.read(audio, question)
        ids: list[int] = []
        while len(ids) < limit and (token := int(scores.argmax())) != self.template.end:
            ids.append(token)
            hidden = self.model.model.language_model(
                input_ids=torch.tensor([[token]], device=self.device), past_key_values=cache
            ).last_hidden_state[0, -1]
            scores = self.model.lm_head(hidden).float().log_softmax(-1)
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


@dataclass(frozen=True)
class Recordings:
    """A dialogue spoken for a test: its key sentence alone, and all of it."""

    key: Samples
    whole: Samples


def recited(sentences: Iterable[str], speaker: Speaker, voice: str) -> Samples:
    """Sentences spoken plainly, with pauses."""
    pause = np.zeros(int(PAUSE_S * RATE), np.float32)
    said = [speaker.say(plain(sentence), voice, vary=False) for sentence in sentences]
    return np.concatenate([part for one in said for part in (one, pause)])


def speak_dialogue(dialogue: Dialogue, speaker: Speaker, voice: str) -> Recordings:
    """Speak a dialogue plainly, without variation."""
    key = [dialogue.sentences[index] for index in dialogue.key]
    return Recordings(recited(key, speaker, voice), recited(dialogue.sentences, speaker, voice))


class Heard:
    """A spoken dialogue as audio tokens, encoded when they are first asked for.

    Args:
        listener: Encodes.
        recordings: What was spoken.
    """

    def __init__(self, listener: Listener, recordings: Recordings) -> None:
        self._listener, self._recordings = listener, recordings

    @cached_property
    def key(self) -> torch.Tensor:
        """(tokens, hidden) of the key sentence alone."""
        return self._listener.encode(self._recordings.key)

    @cached_property
    def whole(self) -> torch.Tensor:
        """(tokens, hidden) of all of it."""
        return self._listener.encode(self._recordings.whole)


def score_dialogue(
    listener: Listener,
    dialogue: Dialogue,
    own: Heard,
    other: Heard,
    conditions: Sequence[str],
) -> dict[str, Any]:
    """Per condition whether the right choice wins, and the number of audio tokens.

    Args:
        listener: Scores.
        dialogue: The question, its choices and the right one.
        own: The dialogue's recordings.
        other: Another dialogue's, for the mismatched controls.
        conditions: ``question``, ``text``, ``key_text``, ``key``, ``whole``, another's recording as
            ``whole_other``, or a method at a pruning rate, such as ``speechprune@0.2``.
    """
    alone = listener.likelihoods(None, dialogue.question, dialogue.choices)
    row: dict[str, Any] = {"id": dialogue.name}
    # The other's recording was the last to be read, as this one's will be for the next.
    for condition in sorted(conditions, key=lambda c: (c != "whole_other", c == "whole")):
        if condition == "question":
            row["question"] = int(alone.argmax() == dialogue.answer)
            continue
        if condition == "text":
            given = listener.embed(" ".join(dialogue.sentences))
        elif condition == "key_text":
            given = listener.embed(" ".join(dialogue.sentences[i] for i in dialogue.key))
        elif pruned := PRUNED.fullmatch(condition):
            options = PruningOptions(
                method="speechprune",
                pruning_rate=float(pruned[2]),
                seed=sum(map(ord, dialogue.name)),
            ).for_method(pruned[1])
            given = listener.keep(own.whole, dialogue.question, options)
        else:
            source = other if condition.endswith("_other") else own
            given = source.key if condition.startswith("key") else source.whole
        scores = listener.likelihoods(given, dialogue.question, dialogue.choices)
        row[condition] = int((scores - alone).argmax() == dialogue.answer)
        row[condition + "_tokens"] = len(given)
    return row


def interval(found: Estimate) -> dict[str, float]:
    """An estimate for the file of results.

    >>> interval(proportion([1.0] * 10))
    {'n': 10, 'mean': 1.0, 'low': 0.7225, 'high': 1.0}
    """
    ends = {"mean": found.mean, "low": found.low, "high": found.high}
    return {"n": found.n, **{name: round(value, 4) for name, value in ends.items()}}


def word_errors(said: str, heard: str) -> tuple[int, int]:
    """Edit distance in words, case and punctuation ignored, and words said.

    >>> word_errors("The roof is dry.", "the roof was dry now")
    (2, 4)
    """
    left, right = (re.findall(r"[a-z0-9']+", text.lower()) for text in (said, heard))
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1], len(left)


def contained(answer: str, expected: str) -> bool:
    """Whether an answer's words hold the expected words in order.

    >>> contained("It is due on the 4th of May.", "On the 4th of may")
    True
    """
    found, wanted = (" ".join(re.findall(r"\w+", text.lower())) for text in (answer, expected))
    return f" {wanted} " in f" {found} "


def evaluate_choices(
    listener: Listener,
    dialogues: Sequence[Dialogue],
    speaker: Speaker,
    voice: str,
    conditions: Sequence[str],
    path: Path,
    report: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Score dialogues one by one into a JSON-lines file; what is already there is kept.

    Returns:
        Accuracy of each condition with its interval, and of pairs of conditions the difference.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        entry = json.loads(line)
        found.setdefault(entry["id"], {}).update(entry)
    previous: Heard | None = None

    def hear(dialogue: Dialogue) -> Heard:
        return Heard(listener, speak_dialogue(dialogue, speaker, voice))

    for place, dialogue in enumerate(dialogues):
        row = found.setdefault(dialogue.name, {})
        missing = [name for name in conditions if name not in row]
        if not missing:
            previous = None
            continue
        own = hear(dialogue)
        other = previous or hear(dialogues[place - 1])  # the first one's neighbour is the last
        scored = score_dialogue(listener, dialogue, own, other, missing)
        previous = own
        row.update(scored)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(scored) + "\n")
        report(scored)
    rows = [found[dialogue.name] for dialogue in dialogues]
    return {
        name: interval(proportion([r[name] for r in rows if name in r])) for name in conditions
    } | {
        f"{name} - {baseline}": interval(
            difference([r[name] - r[baseline] for r in rows if name in r and baseline in r])
        )
        for name, baselines in compared(conditions).items()
        for baseline in baselines
    }


def compared(conditions: Sequence[str]) -> dict[str, list[str]]:
    """Which conditions are compared dialogue by dialogue.

    >>> compared(["whole", "whole_other", "speechprune@0.2", "crop@0.2", "crop@0.4"])
    {'whole': ['whole_other'], 'speechprune@0.2': ['crop@0.2']}
    """
    pairs = {
        name: [c for c in conditions if c in (f"{name}_other", "question")]
        for name in ("key", "whole")
        if name in conditions
    }
    for name in conditions:
        method, _, rate = name.partition("@")
        if method == "speechprune":
            baselines = (f"{m}@{rate}" for m in ("truncate", "random", "crop"))
            pairs[name] = [c for c in baselines if c in conditions]
    return pairs


def evaluate_answers(
    listener: Listener,
    dialogues: Sequence[Dialogue],
    speaker: Speaker,
    voice: str,
    facts: FactMaker,
    count: int,
) -> dict[str, Any]:
    """Free questions about facts spoken between sentences of unseen dialogues."""
    rng, rows = chance(99), []
    for index in range(count):
        made, dialogue = facts.fact(), dialogues[index % len(dialogues)]
        sentences = rng.sample(dialogue.sentences, min(2, len(dialogue.sentences)))
        sentences.insert(rng.randint(0, len(sentences)), made.sentence)
        samples = recited(sentences, speaker, voice)
        said = listener.answer(listener.encode(samples), made.question)
        rows.append(
            {"question": made.question, "expected": made.answer, "answer": said}
            | {"right": contained(said, made.answer)}
        )
    return {"accuracy": interval(proportion([float(row["right"]) for row in rows])), "rows": rows}


def evaluate_words(
    listener: Listener, sentences: Sequence[str], speaker: Speaker, voice: str
) -> dict[str, Any]:
    """Word error rate of the transcription of single sentences."""
    wrong = total = 0
    rows = []
    for sentence in sentences:
        samples = recited([sentence], speaker, voice)
        heard = listener.answer(listener.encode(samples), TRANSCRIBE, limit=80)
        errors, words = word_errors(sentence, heard)
        wrong, total = wrong + errors, total + words
        rows.append({"said": sentence, "heard": heard})
    return {"word_error_rate": round(wrong / max(1, total), 4), "words": total, "rows": rows}
