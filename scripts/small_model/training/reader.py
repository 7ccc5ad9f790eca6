"""The language model as a reader of audio tokens: LoRA in its layers, turns around the audio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from small_model.training.features import Upper

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MARK = "\0"


class LoraLinear(torch.nn.Module):
    """``W x + 2 B A x`` with W frozen; B starts at zero.

    Args:
        base: The layer it stands in for.
        rank: Rows of A.
    """

    def __init__(self, base: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        device = base.weight.device
        bound = 1 / math.sqrt(base.in_features)
        self.a = torch.nn.Parameter(
            torch.empty(rank, base.in_features, device=device).uniform_(-bound, bound)
        )
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        result: torch.Tensor = self.base(x) + 2.0 * F.linear(F.linear(x, self.a), self.b)
        return result


def add_lora(decoder: torch.nn.Module, rank: int) -> dict[str, torch.nn.Parameter]:
    """Put LoRA into a decoder's layers; the new parameters by name."""
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if name in TARGETS and isinstance(child, torch.nn.Linear):
                setattr(parent, name, LoraLinear(child, rank))
    return {n: p for n, p in decoder.named_parameters() if n.endswith((".a", ".b"))}


@dataclass(frozen=True)
class Template:
    """Token ids around the audio and around each answer.

    Attributes:
        before: Ahead of the audio tokens.
        audio_end: Between them and the first question.
        after: Behind a question, up to the answer.
        turn: Ahead of a further question.
        end: Behind an answer.
    """

    before: tuple[int, ...]
    audio_end: str
    after: str
    turn: str
    end: int


def read_template(tokenizer: Any) -> Template:
    """Cut the checkpoint's chat template around its slots."""
    content = [{"type": "audio", "audio": ""}, {"type": "text", "text": MARK}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    before, rest = text.split("<|AUDIO|>")
    audio_end, after = rest.split(MARK)
    turn = "\n<|im_start|>user\n"
    ids = tuple(tokenizer(before, add_special_tokens=False)["input_ids"])
    return Template(ids, audio_end, after, turn, tokenizer.convert_tokens_to_ids("<|im_end|>"))


class Reader:
    """The language model with LoRA, and how samples are laid out for it.

    Args:
        model: ``Qwen2AudioForConditionalGeneration``; its decoder is changed to bfloat16.
        tokenizer: Of the checkpoint.
        rank: Of LoRA.
        upper: The trained part of the encoder, for mode ``real``.
    """

    def __init__(self, model: Any, tokenizer: Any, rank: int, upper: Upper) -> None:
        self.upper = upper.eval().requires_grad_(False)
        self.embeddings = model.get_input_embeddings().weight.detach().float().clone()
        self.decoder = model.model.language_model.to(torch.bfloat16)
        self.head = model.lm_head.to(torch.bfloat16)
        self.lora = add_lora(self.decoder, rank)
        self.tokenizer, self.template = tokenizer, read_template(tokenizer)
        self.device = self.head.weight.device

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def loss(
        self, audio: torch.Tensor, turns: Sequence[tuple[str, str, float]]
    ) -> tuple[torch.Tensor, list[float], int]:
        """Cross-entropy of the answers, averaged over the tokens of each.

        Args:
            audio: Audio tokens, (n, hidden).
            turns: Question, answer, weight; the first question follows the audio.

        Returns:
            The weighted sum, cross-entropy of each turn, number of input tokens.
        """
        template = self.template
        ids: list[int] = []
        marks: list[tuple[int, int]] = []
        for index, (question, answer, _) in enumerate(turns):
            lead = template.turn if index else template.audio_end
            ids += self.ids(lead + question + template.after)
            wanted = [*self.ids(answer), template.end]
            marks.append((len(ids), len(ids) + len(wanted)))
            ids += wanted
        tail = torch.tensor(ids, device=self.device)
        before = self.embeddings[list(template.before)]
        inputs = torch.cat([before, audio.float().to(self.device), self.embeddings[tail]])
        offset = len(before) + len(audio)
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden = self.decoder(
                inputs_embeds=inputs[None].to(torch.bfloat16), use_cache=False
            ).last_hidden_state[0]
            places = torch.cat([torch.arange(a, b) for a, b in marks])
            logits = self.head(hidden[places.to(self.device) + offset - 1])
        entropy = F.cross_entropy(logits.float(), tail[places.to(self.device)], reduction="none")
        each = torch.split(entropy, [b - a for a, b in marks])
        total = torch.stack(
            [part.mean() * weight for part, (_, _, weight) in zip(each, turns, strict=True)]
        ).sum()
        return total, [float(part.detach().mean()) for part in each], len(inputs)
