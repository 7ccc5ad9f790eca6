"""Token ids to text as they come: whole characters only, nothing past a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from speechprune_ort.runtime.ort.tokenizer import TextTokenizer

__all__ = ["TextStream"]

INCOMPLETE = "\ufffd"
"""What a tokenizer decodes the bytes of half a character to."""


class TextStream:
    """Decodes step by step and holds back what may turn out to begin a stop string.

    What may turn out to be part of a character is held back, too: it comes with the token that
    completes it or, if none does, as U+FFFD before the next character or at the end. What was
    released is never taken back.

    Attributes:
        text: everything released so far.
        stopped: whether a stop string was reached; nothing more will be released then.
    """

    def __init__(self, tokenizer: TextTokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []  # a token that was released, as context, and those that follow
        self._context = 0  # of them that were released whole
        self._shown = ""  # what of their text was released
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take a token id and return the text that it releases, perhaps none."""
        if self.stopped:
            return ""
        self._ids.append(token)
        text = self._decoded()
        whole = text.rstrip(INCOMPLETE)
        new = self._new(whole)
        self._held += new
        if new and whole == text:
            # The last word stays: some tokenizers write it otherwise where a text begins.
            self._ids = self._ids[self._context :]
            self._context = len(self._ids)
            self._shown = self._tokenizer.decode(self._ids)
        return self._release()

    def finish(self) -> str:
        """Release what was held back, at the end of the answer."""
        if self.stopped:
            return ""
        self._held += self._new(self._decoded())
        piece = self._release()
        rest, self._held = self._held, ""
        self.text += rest
        return piece + rest

    def _decoded(self) -> str:
        """Text of the tokens that are kept, which begins with what was released of it."""
        text = self._tokenizer.decode(self._ids)
        if not text.startswith(self._shown):
            # Bytes after a character can make a tokenizer no longer decode it: what is released
            # stays.
            self._ids, self._context, self._shown = self._ids[self._context :], 0, ""
            text = self._tokenizer.decode(self._ids)
        return text

    def _new(self, text: str) -> str:
        piece = text[len(self._shown) :]
        self._shown += piece
        return piece

    def _release(self) -> str:
        """What of the held text neither is nor may become a stop string."""
        found = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped = True
            piece, self._held = self._held[: min(found)], ""
        else:
            cut = len(self._held) - self._pending()
            piece, self._held = self._held[:cut], self._held[cut:]
        self.text += piece
        return piece

    def _pending(self) -> int:
        """Length of the longest tail that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
