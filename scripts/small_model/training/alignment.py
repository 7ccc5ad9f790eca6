"""When each piece is spoken: the best way of a text's letters through CTC's classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from small_model.training.spelling import SPACE

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

BLANK = 0
PAUSE_TOKENS = 8  # 0.32 s between two words' letters is a pause
LEAD, TAIL = 2, 4  # tokens that a piece at a pause has ahead of its first letter, behind its last
OUTSIDE = -100  # what cross-entropy leaves out


def letter_times(scores: Floats, letters: Sequence[int]) -> npt.NDArray[np.int64]:
    """The token at which each letter is written, by Viterbi over CTC's states.

    >>> scores = np.log(np.float32([[.8, .1, .1], [.1, .8, .1], [.2, .7, .1], [.1, .1, .8]]))
    >>> letter_times(scores, [1, 2]).tolist()
    [1, 3]

    Args:
        scores: Log-probabilities, (tokens, classes); class 0 is the blank.
        letters: Classes in order; there are at least as many tokens, and a blank more for each
            pair of equal neighbours.

    Returns:
        (letters,), strictly increasing: of the tokens that write a letter the likeliest.
    """
    states = np.full(2 * len(letters) + 1, BLANK)
    states[1::2] = letters
    may_skip = np.zeros(len(states), bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    emitted = scores[:, states]
    best = np.full(len(states), -np.inf, np.float32)
    best[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int8)
    for token in range(1, len(scores)):
        one = np.concatenate([[-np.inf], best[:-1]])
        two = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], best[:-2]]), -np.inf)
        options = np.stack([best, one, two])
        steps[token] = options.argmax(0)
        best = options.max(0) + emitted[token]
    state = len(states) - 1 if best[-1] >= best[-2] else len(states) - 2
    times = np.zeros(len(letters), np.int64)
    highest = np.full(len(letters), -np.inf)
    for token in range(len(scores) - 1, -1, -1):
        if state % 2 and emitted[token, state] >= highest[state // 2]:
            times[state // 2], highest[state // 2] = token, emitted[token, state]
        state -= int(steps[token, state])
    return times


def piece_places(pieces: Sequence[str], times: Sequence[int], count: int) -> Labels:
    """Each audio token's piece by its place, -1 in a pause.

    A piece lasts until halfway to the next one's first letter.

    >>> piece_places([SPACE + "so", "me"], [4, 5, 8, 9], 16).tolist()
    [-1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, -1, -1]

    Args:
        pieces: In order.
        times: The audio token of each of their letters.
        count: How many audio tokens there are.
    """
    spans, at = [], 0
    for piece in pieces:
        size = len(piece.removeprefix(SPACE))
        spans.append((times[at], times[at + size - 1]))
        at += size
    labels = np.full(count, -1, np.int64)
    start = max(0, spans[0][0] - LEAD)
    for place, (_, last) in enumerate(spans):
        end = following = last + 1 + TAIL
        if place + 1 < len(spans):
            first = spans[place + 1][0]
            following = first - LEAD
            if not (pieces[place + 1].startswith(SPACE) and first - last > PAUSE_TOKENS):
                end = following = (last + first + 1) // 2
        labels[start:end] = place
        start = following
    return labels


def word_ends(places: Labels, words: Sequence[int]) -> list[tuple[int, int]]:
    """The last audio token of each word in :func:`piece_places`, and the word, in order.

    >>> word_ends(np.array([-1, 0, 0, 1, -1, 2, 2]), [0, 0, 1])
    [(3, 0), (6, 1)]
    """
    of_token = np.array([*words, -1])[places]
    ends = {int(word): token for token, word in enumerate(of_token) if word >= 0}
    return [(token, word) for word, token in ends.items()]


def steady(scores: Floats, penalty: float) -> Labels:
    """The best of (tokens, labels) where each change costs ``penalty`` nats, by Viterbi.

    >>> scores = np.float32([[0, -3], [-1, 0], [0, -3], [-9, 0]])
    >>> steady(scores, 0.0).tolist(), steady(scores, 2.0).tolist()
    ([0, 1, 0, 1], [0, 0, 0, 1])
    """
    best = scores[0].copy()
    came = np.zeros(scores.shape, np.int32)
    own = np.arange(scores.shape[1])
    for token in range(1, len(scores)):
        other = int(best.argmax())
        came[token] = np.where(best >= best[other] - penalty, own, other)
        best = np.maximum(best, best[other] - penalty) + scores[token]
    labels = np.zeros(len(scores), np.int64)
    labels[-1] = best.argmax()
    for token in range(len(scores) - 1, 0, -1):
        labels[token - 1] = came[token, labels[token]]
    return labels
