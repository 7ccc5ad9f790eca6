"""Token ids to text as they come: whole characters only, nothing past a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

__all__ = ["TextStream"]


class TextStream:
    """Decodes step by step and holds back what may turn out to begin a stop string.

    Attributes:
        text: everything released so far.
        stopped: a stop string was reached; nothing more will be released.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        # Decodes across token borders: a character may be spread over several tokens.
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take a token id and return the text that it releases, perhaps none."""
        if self.stopped:
            return ""
        self._held += self._decoder.step(self._tokenizer, token) or ""
        found = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped = True
            piece, self._held = self._held[: min(found)], ""
        else:
            keep = self._pending()
            cut = len(self._held) - keep
            piece, self._held = self._held[:cut], self._held[cut:]
        self.text += piece
        return piece

    def finish(self) -> str:
        """Release what was held back, at the end of the answer."""
        piece, self._held = self._held, ""
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
