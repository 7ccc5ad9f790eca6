"""``tekken.json``, the tokenizer that Mistral publishes, as a ``tokenizer.json`` of the same ids.

Transformers converts the vocabulary; neither mistral-common nor tiktoken is needed.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast
from transformers.integrations.mistral.tokenizer import MistralConverter

from speechprune_ort.errors import ExportError
from speechprune_ort.export.families.loading import stored_file
from speechprune_ort.export.json_object import brief, read_object
from speechprune_ort.export.source import Source

__all__ = ["tekken_of"]

NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def tekken_of(source: Source) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a checkpoint whose ``tekken.json`` is its only one.

    Args:
        source: the checkpoint.

    Returns:
        The tokenizer; None where there is a ``tokenizer.json``, or neither.

    Raises:
        ExportError: the file cannot be read, or is older than tekken.json with control tokens.
    """
    plain, path = (
        stored_file(source.processor, name, source.revision)
        for name in ("tokenizer.json", "tekken.json")
    )
    if plain is not None or path is None:
        return None
    listed = read_object(path, source.location).get("special_tokens")
    if not isinstance(listed, list) or not listed:
        raise ExportError(
            f"tekken.json of {source.location!r} lists no control tokens (special_tokens is "
            f"{brief(listed)}): give the one of a Voxtral, or a tokenizer.json."
        )
    try:
        backend = MistralConverter(str(path)).converted()
    except MemoryError:
        raise
    except Exception as error:  # looked up, decoded and asserted without asking
        raise ExportError(
            f"tekken.json of {source.location!r} cannot be read ({type(error).__name__}: "
            f"{str(error)[:200]}): download it again, or give a tokenizer.json."
        ) from error
    known = backend.get_vocab()
    named = {key: token for key, token in NAMES.items() if token in known}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)
