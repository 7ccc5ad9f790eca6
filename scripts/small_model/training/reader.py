"""Stage 3: the language model learns to read pieces, by LoRA.

First exact embeddings of texts that nobody has spoken (mode ``exact``): each piece lasts as long as
in speech, words are misheard as the encoder mishears them, and all is noisy. Then what the trained
encoder makes of speech (mode ``real``).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from peft import LoraConfig, get_peft_model

from small_model.assemble import TEXT
from small_model.training.layouts import QWEN2_AUDIO, Layout
from small_model.training.packing import attend_in_packs, fuse
from small_model.training.questions import Turn
from small_model.training.spelling import forms_of, misheard
from small_model.training.targets import Targets
from speechprune_ort.models.delta import FACTOR_A, FACTOR_B

RANK = 8
HEARD_WEIGHT = 1.0  # of a recording's words where they end, beside its answers
SCALE = 2.0  # of the products of LoRA's factors
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FACTOR = re.compile(r"base_model\.model\.model\.(.+)\.lora_([AB])\.default\.weight")
ENDINGS = {"A": FACTOR_A, "B": FACTOR_B}
LETTER_TOKENS = (0.5, 1.3)  # audio tokens that a letter lasts; in speech 1.2 to 2
PAUSE_TOKENS = (1, 6)


End = tuple[int, str]  # an audio token with which a word ends, and the word as it is written


class Spoken(NamedTuple):
    """A recording for the language model."""

    audio: torch.Tensor  # (tokens, hidden)
    turns: Sequence[Turn]
    ends: Sequence[End] = ()


class Loss(NamedTuple):
    """Of a pack of recordings."""

    total: torch.Tensor  # a scalar, which is to become small
    turns: list[list[float]]  # cross-entropy of each recording's turns
    heard: float  # mean cross-entropy of words where they end; not a number without any
    positions: int  # of the pack


@dataclass(frozen=True)
class Exact:
    """Makes audio tokens of text."""

    targets: Targets
    rng: random.Random

    def __call__(self, sentences: Sequence[str]) -> tuple[torch.Tensor, list[End]]:
        """(tokens, hidden) float32 of sentences with pauses between them, and where words end."""
        rng, targets = self.rng, self.targets
        tokens: list[tuple[int, int, float]] = []  # rows of piece and word, strength of the word
        ends: list[End] = []
        letter, wrong = rng.uniform(*LETTER_TOKENS), rng.uniform(0, 0.4)
        for sentence in sentences:
            for form in forms_of(sentence):
                word = form.lower()
                heard = misheard(word, rng) if rng.random() < wrong else word
                heard = heard.strip("'") or word
                whole = targets.words.get(heard, 0) or rng.randrange(len(targets.whole))
                # The encoder does not know all words well.
                known = rng.uniform(0, 1) if heard in targets.words else rng.uniform(0, 0.5)
                cut = targets.cutter.cut(heard)
                for piece in cut:
                    row = targets.rows.get(piece)
                    if row is not None:
                        count = max(1, round(len(piece) * letter * rng.uniform(0.6, 1.4)))
                        tokens += count * [(row, whole if len(cut) > 1 else 0, known)]
                if tokens:
                    ends.append((len(tokens) - 1, form))
            tokens += rng.randint(*PAUSE_TOKENS) * [(0, 0, 1.0)]
        pieces, words, strength = (torch.tensor(values) for values in zip(*tokens, strict=True))
        return self.noisy(targets.between(pieces, words, strength[:, None])), ends

    def noisy(self, tokens: torch.Tensor) -> torch.Tensor:
        """Neighbours run into each other, some are another piece in part, and all is noisy."""
        rng, table = self.rng, self.targets.pieces + self.targets.centre
        other = table[torch.randint(len(table), (len(tokens),))]
        share = (torch.rand(len(tokens), 1) < rng.uniform(0, 0.3)) * torch.rand(len(tokens), 1)
        tokens = tokens + share * (other - tokens)
        blur = (torch.rand(len(tokens), 1) < 0.35) * rng.uniform(0, 0.5)
        tokens = tokens + blur * (torch.roll(tokens, rng.choice([-1, 1]), 0) - tokens)
        return tokens + torch.randn_like(tokens) * table.std() * rng.uniform(0, 0.5)


class Reader:
    """A causal language model in bfloat16 with LoRA in its layers.

    Training steps go through float32 copies of the factors, because bfloat16 is too coarse for
    them. The model is ``Qwen2ForCausalLM`` or ``LlamaForCausalLM``.
    """

    def __init__(self, model: Any, tokenizer: Any, layout: Layout = QWEN2_AUDIO) -> None:
        model = model.to(torch.bfloat16)
        self.embeddings = model.get_input_embeddings().weight.detach()
        config = LoraConfig(r=RANK, lora_alpha=int(SCALE * RANK), target_modules=list(TARGETS))
        self.model: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
        attend_in_packs(model)
        fuse(self.model)
        self.factors = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in self.factors.values()]
        self.tokenizer, self.layout = tokenizer, layout

    @property
    def inner(self) -> Any:
        """The causal language model with LoRA inside."""
        return self.model.base_model.model

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def to_masters(self) -> None:
        """Hand the gradients of the factors to their float32 copies."""
        for master, factor in zip(self.masters, self.factors.values(), strict=True):
            master.grad = None if factor.grad is None else factor.grad.float()
            factor.grad = None

    def from_masters(self) -> None:
        """Take the values of the float32 copies."""
        for master, factor in zip(self.masters, self.factors.values(), strict=True):
            factor.data.copy_(master.data)

    def state(self) -> dict[str, torch.Tensor]:
        """The factors in float32, by name."""
        masters = zip(self.factors, self.masters, strict=True)
        return {name: master.detach() for name, master in masters}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take what :meth:`state` gave."""
        for name, master in zip(self.factors, self.masters, strict=True):
            master.data.copy_(state[name].float())
        self.from_masters()

    def prompt(self, audio: torch.Tensor, tail: Sequence[int]) -> torch.Tensor:
        """Embeddings of a whole prompt, (1, positions, hidden) bfloat16."""
        before, behind = self.embeddings[self.ids(self.layout.before)], self.embeddings[list(tail)]
        return torch.cat([before, audio.to(torch.bfloat16), behind])[None]

    def loss(self, recordings: Sequence[Spoken]) -> Loss:
        """Cross-entropy of the answers, averaged over the tokens of each, then weighted and summed.

        Beside it each word where it ends, averaged over those of a recording: a few answers alone
        are little to learn reading from. The recordings go through the model as one pack, in which
        none attends to another.
        """
        layout = self.layout
        before = len(self.ids(layout.before))
        told: list[tuple[int, int]] = []  # place and token of answers, and of words that end
        ended: list[tuple[int, int]] = []
        shares: list[float] = []
        inputs: list[torch.Tensor] = []
        turns: list[tuple[int, float]] = []
        start = 0
        for one in recordings:
            tail: list[int] = []
            said: list[tuple[int, int]] = []
            for number, turn in enumerate(one.turns):
                ahead = layout.further if number else layout.behind
                tail += self.ids(ahead + turn.question + layout.asked)
                answer = self.ids(turn.answer + layout.end)
                said += enumerate(answer, len(tail))
                turns.append((len(answer), turn.weight))
                tail += answer
            ended += [(start + before + at, self.ids(f" {form}")[0]) for at, form in one.ends]
            shares += [HEARD_WEIGHT / len(one.ends) for _ in one.ends]
            prompt = self.prompt(one.audio, tail)[0]
            lead = start + len(prompt) - len(tail) - 1  # each token is said by the one before it
            told += [(lead + place, token) for place, token in said]
            inputs.append(prompt)
            start += len(prompt)
        lengths = [len(prompt) for prompt in inputs]
        hidden = self.inner.model(
            inputs_embeds=torch.cat(inputs)[None],
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            use_cache=False,
            lengths=lengths,
        ).last_hidden_state[0]
        places, wanted = zip(*told, *ended, strict=True)
        logits = self.inner.lm_head(hidden[list(places)]).float()
        entropy = F.cross_entropy(logits, torch.tensor(wanted), reduction="none")
        *parts, heard = torch.split(entropy, [*(count for count, _ in turns), len(ended)])
        each = [part.mean() for part in parts]
        total = torch.stack([w * e for (_, w), e in zip(turns, each, strict=True)]).sum()
        total = total + (torch.tensor(shares) * heard).sum()
        values = iter([float(e.detach()) for e in each])
        told_of = [[next(values) for _ in one.turns] for one in recordings]
        return Loss(total, told_of, float(heard.detach().mean()), start)

    @torch.inference_mode()
    def answer(self, audio: torch.Tensor, question: str, limit: int = 32) -> str:
        """Greedy answer of at most ``limit`` tokens."""
        ids: list[int] = []
        layout = self.layout
        end = self.ids(layout.end)[0]
        inputs = self.prompt(audio, self.ids(layout.behind + question + layout.asked))
        output = self.inner(inputs_embeds=inputs, use_cache=True, logits_to_keep=1)
        while len(ids) < limit and (token := int(output.logits[0, -1].argmax())) != end:
            ids.append(token)
            output = self.inner(
                input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values
            )
        return str(self.tokenizer.decode(ids)).strip()


def factors_of(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """LoRA's factors, which have peft's names, by the names of a delta.

    >>> list(factors_of({"base_model.model.model.x.lora_A.default.weight": torch.zeros(1)}))
    ['language_model.model.x.weight.lora_a']
    """
    found = {}
    for name, values in state.items():
        match = FACTOR.fullmatch(name)
        assert match is not None, name  # noqa: S101 - peft's own names
        found[f"{TEXT}{match[1]}.weight{ENDINGS[match[2]]}"] = values
    return found


def state_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The factors that a delta holds, under peft's names, as :meth:`Reader.load` takes them."""
    found = {}
    for letter, ending in ENDINGS.items():
        for name, values in tensors.items():
            if name.endswith(ending):
                matrix = name.removesuffix(f".weight{ending}").removeprefix(TEXT)
                found[f"base_model.model.model.{matrix}.lora_{letter}.default.weight"] = values
    return found
