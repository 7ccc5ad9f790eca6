"""Audio tokens, chat template and tokenizer settings of the checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from speechprune_ort.errors import PartError

AUDIO_TOKEN, AUDIO_BOS, AUDIO_EOS = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"

# Qwen2.5 reserves tokens for images, which its Coder has never read. Renaming keeps the size of the
# vocabulary and every weight's shape.
IMAGE_TOKENS = ("<|vision_pad|>", "<|vision_start|>", "<|vision_end|>")
RENAMED_TOKENS: Mapping[str, str] = dict(
    zip(IMAGE_TOKENS, (AUDIO_TOKEN, AUDIO_BOS, AUDIO_EOS), strict=True)
)

EOS, PAD = "<|im_end|>", "<|endoftext|>"  # as Qwen2.5-Instruct has them
PROCESSOR: Mapping[str, str] = {"processor_class": "Qwen2AudioProcessor"}

# ChatML as Qwen2.5 was trained on, with content lists as Qwen2-Audio's processor takes them. There
# is no default system message: what the language model learned to read has none.
# One line, because not every template engine drops the line ends after block tags.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}"
    "{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' or 'audio' in part or 'audio_url' in part %}"
    "{{ '<|audio_bos|><|AUDIO|><|audio_eos|>\\n' }}"
    "{% elif 'text' in part %}"
    "{{ part['text'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}"
)


def rename_tokens(tokenizer: Mapping[str, Any], renames: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a ``tokenizer.json`` in which special tokens have new texts and keep their ids."""
    changed = copy.deepcopy(dict(tokenizer))
    vocabulary: dict[str, int] = changed["model"]["vocab"]
    special = {token["content"]: token for token in changed["added_tokens"] if token["special"]}
    for old, new in renames.items():
        if old not in vocabulary or old not in special:
            raise PartError(
                f"The tokenizer has no special token {old} to rename to {new}: use the tokenizer "
                "of Qwen2.5-Coder-0.5B-Instruct."
            )
        if new in vocabulary or new in special:
            raise PartError(
                f"The tokenizer has a token {new} already: use an unchanged tokenizer of "
                "Qwen2.5-Coder-0.5B-Instruct."
            )
        special[old]["content"] = new
    changed["model"]["vocab"] = {renames.get(t, t): index for t, index in vocabulary.items()}
    return changed


def token_id(tokenizer: Mapping[str, Any], token: str) -> int:
    """The id of a token in the vocabulary of a ``tokenizer.json``."""
    return int(tokenizer["model"]["vocab"][token])


def tokenizer_config(context: int, more: Mapping[str, str] = PROCESSOR) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``; ``context`` is the model's, in tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **more,
        "eos_token": EOS,
        "pad_token": PAD,
        "padding_side": "left",
        # The class takes no token_type_ids, which transformers 4 would add.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
