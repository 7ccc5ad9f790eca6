"""The bundle's tokenizer for what people write and models answer: no control token gets in."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Encoding, Tokenizer

from speechprune_ort.errors import PromptError
from speechprune_ort.runtime.ort.tokenizer_file import is_of_library
from speechprune_ort.text import check_text

__all__ = ["TextTokenizer"]

NOT_DECODED = "\ufffd"


class TextTokenizer:
    """Texts to tokens that are text alone, and tokens back to text.

    Whatever ``tokenizer.json`` adds to its vocabulary is a control token here, whether it is
    called special there or not; runs of white space, which some tokenizers add, are not.

    Args:
        tokenizer: the bundle's tokenizer; it no longer finds control tokens in a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        # Not part of an answer's text: as the model's own library leaves out what is special.
        self._unseen = frozenset(index for index, token in added.items() if token.special)
        controls = {i: t for i, t in added.items() if t.content.replace("▁", " ").strip()}
        unknown = _unknown(tokenizer)
        self._controls = {i: t.content for i, t in controls.items() if i not in unknown}
        tokenizer.add_special_tokens(
            [
                AddedToken(
                    token.content,
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                    special=True,
                )
                for token in controls.values()
            ]
        )
        tokenizer.encode_special_tokens = True

    def encode(self, text: str, what: str = "The question") -> Encoding:
        """Tokens of a text; control tokens written out in it stay plain text.

        Args:
            text: what somebody wrote.
            what: how a message calls it.

        Raises:
            PromptError: it is not a text, or the vocabulary itself leads to a control token.
        """
        encoding = self._tokenizer.encode(check_text(text, what), add_special_tokens=False)
        if not self._controls.keys().isdisjoint(encoding.ids):
            found = next(self._controls[i] for i in encoding.ids if i in self._controls)
            raise PromptError(
                f"{what} holds {found!r}, which this model can only read as a control token: "
                "write it in another way."
            )
        return encoding

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without what is special; never raises.

        Bytes that are not a character, and tokens that the tokenizer cannot decode, are U+FFFD.
        """
        shown = [index for index in ids if index not in self._unseen]
        try:
            return self._tokenizer.decode(shown, skip_special_tokens=False)
        except BaseException as error:
            if not (isinstance(error, Exception) or is_of_library(error)):
                raise
            return NOT_DECODED * len(shown)


def _unknown(tokenizer: Tokenizer) -> set[int]:
    """Ids that a character unknown to the model becomes: not control tokens, though added."""
    try:
        return {token.id for token in tokenizer.model.tokenize("\U0010fffd")}
    except BaseException as error:  # some models have nothing for it
        if not is_of_library(error):
            raise
        return set()
