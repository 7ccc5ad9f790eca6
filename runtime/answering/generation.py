"""The tokens of one answer as they are chosen, and the text that they release."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Generator
from typing import Any, Literal

from numpy.typing import NDArray

from speechprune_ort.cancel import checkpoint
from speechprune_ort.options import GenerationOptions
from speechprune_ort.runtime.answering.sampling import Sampler, log_probability
from speechprune_ort.runtime.answering.text_stream import TextStream
from speechprune_ort.runtime.ort.tokenizer import TextTokenizer
from speechprune_ort.timings import Timings

__all__ = ["Generation", "Reason", "spoken_alone"]

Reason = Literal["stop", "length", "stop_string"]


class Generation:
    """An answer in progress: it is given logits and says which token comes next.

    Args:
        tokenizer: the bundle's tokenizer.
        stop_token_ids: any of these ends it.
        options: how tokens are chosen.
        position: position of the prompt's last token.

    Attributes:
        ids: token ids of the answer so far, without the stop token.
        log_probabilities: natural logarithm of the probability that the model gave to each.
        reason: why it has ended; None while it goes on.
        position: position of the last token.
        pieces: pieces of text that were released and not yet taken.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        stop_token_ids: Container[int],
        options: GenerationOptions,
        position: int,
    ) -> None:
        self._stop, self._options = stop_token_ids, options
        self._sampler, self._out = Sampler(options), TextStream(tokenizer, options.stop)
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.reason: Reason | None = None
        self.position = position
        self.pieces: deque[str] = deque()

    @property
    def text(self) -> str:
        """Everything released so far."""
        return self._out.text

    def take(self, logits: NDArray[Any]) -> None:
        """Choose the next token from (vocab,) logits, and release what text it completes."""
        token = self._sampler(logits, self.ids)
        piece = ""
        if token in self._stop and not self._options.ignore_stop:
            self.reason = "stop"
        else:
            self.ids.append(token)
            self.log_probabilities.append(log_probability(logits, token))
            self.position += 1
            piece = self._out.push(token)
            if self._out.stopped:
                self.reason = "stop_string"
            elif len(self.ids) == self._options.max_new_tokens:
                self.reason = "length"
        if self.reason is not None:
            piece += self._out.finish()
        if piece:
            self.pieces.append(piece)


def spoken_alone(
    said: Generation, step: Callable[[int, int], NDArray[Any]], timings: Timings
) -> Generator[str, None, None]:
    """Yield the text of an answer that no other shares steps with, once its first token is chosen.

    Args:
        said: the answer; it goes on to its end.
        step: from a token and its position to (vocab,) logits of the next.
        timings: what steps take is added to it.

    Raises:
        CancelledError: the call was ended.
    """
    while True:
        while said.pieces:
            yield said.pieces.popleft()
        if said.reason is not None:
            return
        checkpoint()
        with timings.measure("decode"):
            said.take(step(said.ids[-1], said.position))
