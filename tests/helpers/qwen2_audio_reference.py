"""Qwen2-Audio in transformers: what the runtime's answers and logits are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from references import RATE, Family, Reference, Samples
from tiny import TINY, write_checkpoint
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

NEW_TOKENS = 32


class Qwen2Audio:
    """A checkpoint in transformers, asked the way its own processor asks it."""

    def __init__(self, folder: str, question: str) -> None:
        self.question = question
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = Qwen2AudioForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def inputs(self, samples: NDArray[np.float32]) -> Any:
        """Every 30 s window is an audio of its own, side by side at the placeholder."""
        windows = [samples[at : at + 480_000] for at in range(0, len(samples), 480_000)]
        content = [{"type": "audio", "audio_url": "x"}, {"type": "text", "text": self.question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        text = text.replace("<|AUDIO|>", "<|AUDIO|>" * len(windows))
        return self.processor(text=text, audio=windows, sampling_rate=16_000, return_tensors="pt")

    def generate(self, samples: NDArray[np.float32]) -> list[int]:
        inputs = self.inputs(samples)
        out = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        ids: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
        return ids

    def logits(self, samples: NDArray[np.float32], ids: list[int]) -> NDArray[np.float32]:
        """(1 + len(ids), vocab): before each of ``ids`` and after the last, teacher-forced.

        From embeddings, as a random model may answer with the audio placeholder's own id.
        """
        before, after = self.text_embeds(samples)
        inner = self.model.model.language_model
        forced = inner.embed_tokens(torch.tensor(ids))
        embeds = torch.cat([before, self.audio_embeds(samples), after, forced])
        with torch.no_grad():
            hidden = inner(inputs_embeds=embeds[None]).last_hidden_state[0, -len(ids) - 1 :]
            rows: NDArray[np.float32] = self.model.lm_head(hidden).numpy()
        return rows

    def text_embeds(self, samples: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the prompt ahead of the audio and behind it, (tokens, hidden) each."""
        ids = self.inputs(samples)["input_ids"][0]
        audio = (ids == self.model.config.audio_token_index).nonzero()
        table = self.model.model.language_model.embed_tokens
        with torch.no_grad():
            return table(ids[: int(audio[0])]), table(ids[int(audio[-1]) + 1 :])

    def audio_embeds(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """(tokens, hidden) of the whole recording."""
        inputs = self.inputs(samples)
        lengths = inputs["feature_attention_mask"].sum(-1)
        rows = []
        tower, projector = self.model.model.audio_tower, self.model.model.multi_modal_projector
        for features, length in zip(inputs["input_features"], lengths, strict=True):
            encoded, tokens = tower._get_feat_extract_output_lengths(length)
            mask = torch.zeros(1, 1, 1, 1500)
            mask[..., int(encoded) :] = torch.finfo(torch.float32).min
            with torch.no_grad():
                hidden = tower(features[None], attention_mask=mask).last_hidden_state
                rows.append(projector(hidden)[0, : int(tokens)])
        return torch.cat(rows)

    def greedy(self, embeds: torch.Tensor, positions: torch.Tensor, stops: Any) -> list[int]:
        """Greedy ids from input embeddings (tokens, hidden) at given positions."""
        inner, ids, cache = self.model.model.language_model, [], None
        step, at = embeds[None], positions[None]
        with torch.no_grad():
            while len(ids) < NEW_TOKENS:
                out = inner(
                    inputs_embeds=step, position_ids=at, past_key_values=cache, use_cache=True
                )
                cache = out.past_key_values
                token = int(self.model.lm_head(out.last_hidden_state[0, -1]).argmax())
                if token in stops:
                    break
                ids.append(token)
                step = inner.embed_tokens(torch.tensor([[token]]))
                at = at[:, -1:] + 1
        return ids


class Opened:
    """The same, asked any question."""

    def __init__(self, folder: Path) -> None:
        self.heard = Qwen2Audio(str(folder), "")
        self.model = self.heard.model
        self.audio_token: int = self.model.config.audio_token_index

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """What ``generate`` takes."""
        self.heard.question = question
        return dict(self.heard.inputs(samples))

    def audio(self, samples: Samples) -> torch.Tensor:
        """(tokens, hidden) audio embeddings."""
        return self.heard.audio_embeds(samples)


def tokens(samples: int) -> int:
    """Audio tokens of so many samples, 25 a second."""
    whole, rest = divmod(samples, 30 * RATE)
    frames = -(-rest // 160)
    return 750 * whole + max(0, ((frames - 1) // 2 - 1) // 2 + 1)


def opened(folder: Path) -> Reference:
    """The checkpoint by its own class."""
    return Opened(folder)


STATES = (
    Family(
        "qwen2-audio",
        "qwen2_audio",
        lambda folder: write_checkpoint(folder, TINY[5]),
        opened,
        tokens,
    ),
)
