"""Audio tokens, chat template and tokenizer settings of the checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from small_model.errors import SmallModelError

AUDIO_TOKEN, AUDIO_BOS, AUDIO_EOS = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"

# SmolLM2 reserves tokens for source code that no chat uses; these three look never trained (their
# embeddings are nearly equal). Renaming keeps the vocabulary at 49,152 and every weight's shape.
RENAMED_TOKENS: Mapping[str, str] = {
    "<jupyter_start>": AUDIO_TOKEN,
    "<jupyter_text>": AUDIO_BOS,
    "<jupyter_code>": AUDIO_EOS,
}

BOS, EOS, PAD = "<|im_start|>", "<|im_end|>", "<|im_end|>"  # as SmolLM2-Instruct has them

# ChatML as SmolLM2 was trained on, with content lists as Qwen2-Audio's processor takes them. There
# is no default system message: SmolLM2's costs 21 tokens for a persona, and on a handful of short
# questions its answers were about as good without.
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
    """Give special tokens of a ``tokenizer.json`` new texts and keep their ids.

    Args:
        tokenizer: Content of a ``tokenizer.json`` with a BPE model; not changed.
        renames: Old text to new text.

    Returns:
        A changed copy.

    Raises:
        SmallModelError: an old token is not in the vocabulary or not special, or a new text is
            a token already.
    """
    changed = copy.deepcopy(dict(tokenizer))
    vocabulary: dict[str, int] = changed["model"]["vocab"]
    special = {token["content"]: token for token in changed["added_tokens"] if token["special"]}
    for old, new in renames.items():
        if old not in vocabulary or old not in special:
            raise SmallModelError(
                f"The tokenizer has no special token {old} to rename to {new}: use the tokenizer "
                "of SmolLM2-135M-Instruct."
            )
        if new in vocabulary or new in special:
            raise SmallModelError(
                f"The tokenizer has a token {new} already: use an unchanged tokenizer of "
                "SmolLM2-135M-Instruct."
            )
        special[old]["content"] = new
    changed["model"]["vocab"] = {renames.get(t, t): index for t, index in vocabulary.items()}
    return changed


def token_id(tokenizer: Mapping[str, Any], token: str) -> int:
    """The id of a token in the vocabulary of a ``tokenizer.json``."""
    return int(tokenizer["model"]["vocab"][token])


def tokenizer_config(context: int) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``; ``context`` is the model's, in tokens."""
    return {
        # GPT2Tokenizer, which SmolLM2 names, may replace the digit-splitting pre-tokenizer.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Qwen2AudioProcessor",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": "<|endoftext|>",
        "padding_side": "left",
        # The class takes no token_type_ids, which transformers 4 would add.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
