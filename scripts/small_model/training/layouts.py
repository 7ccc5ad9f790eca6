"""The layouts that a checkpoint can be trained for: what is read around audio tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from small_model.text import EOS, IMAGE_TOKENS, PAD

_, AUDIO_BOS, AUDIO_EOS = IMAGE_TOKENS  # which no text has


class Name(StrEnum):
    """What ``--layout`` takes."""

    QWEN2_AUDIO = "qwen2_audio"
    VOXTRAL = "voxtral"


@dataclass(frozen=True)
class Layout:
    """Texts under the names that the language model's own tokenizer has for control tokens."""

    before: str  # ahead of the audio tokens
    behind: str  # between them and the first question
    asked: str  # between a question and its answer
    end: str  # of an answer
    further: str  # between that and the next question
    suffix: str  # of the names of files and curves of the language model

    @property
    def reader(self) -> str:
        """File of the language model's factors in WORK."""
        return f"reader{self.suffix}.safetensors"


QWEN2_AUDIO = Layout(
    before=f"<|im_start|>user\n{AUDIO_BOS}",
    behind=f"{AUDIO_EOS}\n",
    asked="<|im_end|>\n<|im_start|>assistant\n",
    end=EOS,
    further="\n<|im_start|>user\n",
    suffix="",
)
# Mistral's control tokens are others of Qwen2.5's that are renamed in the checkpoint.
INSTRUCT, HEARD, ANSWER = "<|im_start|>", AUDIO_BOS, AUDIO_EOS
VOXTRAL = Layout(
    before=f"{PAD}{INSTRUCT}{HEARD}",
    behind="",
    asked=ANSWER,
    end=EOS,
    further=INSTRUCT,
    suffix="-voxtral",
)
LAYOUTS = {Name.QWEN2_AUDIO: QWEN2_AUDIO, Name.VOXTRAL: VOXTRAL}
