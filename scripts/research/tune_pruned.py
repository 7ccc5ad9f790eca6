"""Fine-tune a language model by LoRA on pruned prompts: what training adds to choosing tokens.

    scripts/research/tune_pruned CHECKPOINT BUNDLE SET OUT [--method coverage]
                                 [--pruning-rate 0.8] [--passes 1] [--limit N]

CHECKPOINT is a Qwen2-Audio folder, BUNDLE its export, SET what ``speechprune-ort eval`` takes, of
recordings for training alone. Each question's prompt is laid out as the bundle lays it out, with
the tokens that the method keeps of the audio; the right choice and the end of the answer are what
is learnt, in float32, by AdamW. OUT becomes a LoRA folder (arXiv:2106.09685), which is exported and
judged like any checkpoint, at the same number of tokens:

    speechprune-ort export OUT tuned/ --base CHECKPOINT
    speechprune-ort eval tuned/ --data TEST --methods coverage --pruning-rates 0.8

``training.json`` in OUT has the losses, recordings and minutes that it took.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
import typer
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.progress import track
from transformers import Qwen2AudioForConditionalGeneration
from user_errors import one_sentence

from speechprune_ort import PruningOptions, SpeechLLM
from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.evaluation.samples import Sample, read_samples
from speechprune_ort.files import whole_folder, write_json
from speechprune_ort.methods import needs_cut, needs_encoder
from speechprune_ort.options import DEFAULT_METHOD
from speechprune_ort.runtime.answering.prompt import Prompt
from speechprune_ort.timings import Timings

TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
SCALE = 2  # of the products of the factors
CLIP = 1.0  # of the gradient's norm
TOGETHER = 4  # recordings of a step

console = Console(stderr=True, highlight=False, soft_wrap=True)


def prompt_of(model: SpeechLLM, sample: Sample, pruning: PruningOptions) -> NDArray[np.float32]:
    """Embeddings (prompt, hidden) of a question and what is kept of its recording.

    Raises:
        AudioError: the recording cannot be used.
        OptionError: the method drops tokens within the decoder, so that there is no such prompt.
    """
    recording = model.listen(sample.audio, encoder_attention=needs_encoder(pruning))
    if needs_cut(pruning):
        raise OptionError(f"{pruning.method} drops tokens within the decoder: give another method.")
    # The prompt as an answer reads it, merged tokens included.
    prompt = Prompt.of(model.engine, sample.question)
    asked = recording._about(prompt, pruning, 1, Timings())  # noqa: SLF001
    embeds = asked.lay_out(asked.choose()).embeds
    assert isinstance(embeds, np.ndarray)  # noqa: S101 - on the CPU
    return embeds.astype(np.float32)


def answer_of(model: SpeechLLM, sample: Sample) -> list[int]:
    """Token ids of the right choice, and of the end of an answer."""
    ids = model.engine.text.encode(sample.choices[sample.answer], "A choice").ids
    return [*ids, model.manifest.stop_token_ids[0]]


class Tuner:
    """A checkpoint whose language model learns to answer behind pruned prompts.

    Args:
        checkpoint: folder of a Qwen2-Audio.
        rank: of the factors.
        rate: of learning, at its highest.
        steps: that will be taken; the rate falls to nothing over them.
    """

    def __init__(self, checkpoint: Path, rank: int, rate: float, steps: int) -> None:
        model = Qwen2AudioForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        config = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=TARGETS)
        self.model: Any = get_peft_model(model, config)
        inner: Any = self.model.base_model.model
        self._layers, self._head = inner.model.language_model, inner.lm_head
        self._embed = inner.get_input_embeddings()
        learnt = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(learnt, lr=rate, weight_decay=0.0)
        self._falling = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1.0, 0.0, steps)
        self._learnt = learnt

    def loss(self, prompt: NDArray[np.float32], answer: Sequence[int]) -> torch.Tensor:
        """Cross-entropy of an answer's tokens behind a prompt (prompt, hidden), their mean."""
        ids = torch.tensor(answer)
        rows = torch.cat([torch.from_numpy(prompt), self._embed(ids[:-1])])
        hidden = self._layers(inputs_embeds=rows[None], use_cache=False).last_hidden_state[0]
        # Each token is said by the position before it.
        return F.cross_entropy(self._head(hidden[len(prompt) - 1 :]), ids)

    def step(self, examples: Sequence[tuple[NDArray[np.float32], Sequence[int]]]) -> float:
        """Learn from a few recordings; their mean loss before it."""
        total = 0.0
        for prompt, answer in examples:
            loss: Any = self.loss(prompt, answer) / len(examples)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self._learnt, CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._falling.step()
        return total


def in_steps(count: int, passes: int, seed: int) -> Iterator[list[int]]:
    """Indices of the recordings of each step, every pass in an order of its own.

    >>> [sorted(step) for step in in_steps(3, 2, 0)]
    [[0, 1, 2], [0, 1, 2]]
    """
    draw = random.Random(seed)  # noqa: S311 - an order
    for _ in range(passes):
        order = draw.sample(range(count), count)
        yield from (order[start : start + TOGETHER] for start in range(0, count, TOGETHER))


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a Qwen2-Audio.")],
    bundle: Annotated[Path, typer.Argument(help="Its export.")],
    data: Annotated[Path, typer.Argument(metavar="SET", help="Recordings for training alone.")],
    out: Annotated[Path, typer.Argument(help="LoRA folder to write.")],
    method: Annotated[str, typer.Option(help="What chooses the tokens.")] = DEFAULT_METHOD,
    pruning_rate: Annotated[float, typer.Option(help="Of one window.")] = 0.8,
    rank: Annotated[int, typer.Option(min=1, help="Of the factors.")] = 8,
    rate: Annotated[float, typer.Option(help="Of learning.")] = 1e-4,
    passes: Annotated[int, typer.Option(min=1, help="Over the recordings.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first recordings.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order.")] = 0,
) -> None:
    """Train, and write the adapter."""
    with one_sentence(console, OSError):
        if out.exists():
            raise DataError(f"{out} is there already: give another folder for what is learnt.")
        samples = read_samples(data)[:limit]
        model = SpeechLLM(bundle, "cpu")
        if model.manifest.family != "qwen2_audio":
            raise DataError(f"{bundle} is a {model.manifest.family}: give a Qwen2-Audio's export.")
        pruning = PruningOptions(method, pruning_rate, seed=seed)
        torch.manual_seed(seed)
        steps = list(in_steps(len(samples), passes, seed))
        tuner = Tuner(checkpoint, rank, rate, len(steps))
        started, losses = time.perf_counter(), list[float]()
        for step in track(steps, "training", console=console):
            asked = [samples[index] for index in step]
            examples = [(prompt_of(model, s, pruning), answer_of(model, s)) for s in asked]
            losses.append(tuner.step(examples))
        tuner.model.peft_config["default"].base_model_name_or_path = str(checkpoint)
        minutes = (time.perf_counter() - started) / 60
        about = {
            "recordings": len(samples), "passes": passes, "method": method,
            "pruning_rate": pruning_rate, "rank": rank, "rate": rate,
            "minutes": round(minutes, 1), "losses": [round(loss, 4) for loss in losses],
        }  # fmt: skip
        with whole_folder(out) as half:
            tuner.model.save_pretrained(half)
            write_json(half / "training.json", about)
    quarter = max(1, len(losses) // 4)
    first, last = (float(np.mean(part)) for part in (losses[:quarter], losses[-quarter:]))
    print(json.dumps({key: value for key, value in about.items() if key != "losses"}))
    print(f"loss {first:.3f} in the first quarter, {last:.3f} in the last; {out}")


if __name__ == "__main__":
    typer.run(main)
