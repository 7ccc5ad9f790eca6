"""Opening a bundle's tokenizer, and keeping its library's own errors from getting through."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from speechprune_ort.errors import BundleError
from speechprune_ort.runtime.ort.printed import printed

__all__ = ["is_of_library", "open_tokenizer", "tokenizer_errors"]


def is_of_library(error: BaseException) -> bool:
    """Whether the tokenizers library raised an error, for reasons of any kind.

    It raises a bare ``Exception``; a panic of its Rust code is no ``Exception`` at all.
    """
    return type(error) is Exception or type(error).__name__ == "PanicException"


@contextlib.contextmanager
def tokenizer_errors(path: Path) -> Iterator[None]:
    """Turn what the library raises within the block into one sentence.

    Args:
        path: ``tokenizer.json``, for the message.

    Raises:
        BundleError: the library failed; a panic of its Rust code, which ``except Exception`` does
            not catch, included.
    """
    try:
        yield
    except BaseException as error:
        if not is_of_library(error):
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise BundleError(
            f"{path} cannot be read or does not work ({reason}): export the bundle again."
        ) from None


def open_tokenizer(path: Path, vocab: int) -> Tokenizer:
    """Open a tokenizer whose file was checked.

    It neither pads nor cuts, whatever the file says, and control tokens that are written out in a
    text stay plain text.

    Args:
        path: ``tokenizer.json``.
        vocab: rows of the embedding table.

    Raises:
        BundleError: the file is not a tokenizer, or has more tokens than the table has rows.
    """
    # A panic prints more than a sentence, and raises its reason.
    with tokenizer_errors(path), printed():
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    tokens = tokenizer.get_vocab_size()
    if tokens > vocab:
        raise BundleError(
            f"{path} has {tokens} tokens and the embedding table {vocab} rows: export the bundle "
            "again."
        )
    return tokenizer
