"""Reads a WAV from a pipe block by block, without waiting for its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError

__all__ = ["wav_blocks"]

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
LONGEST_CHUNK = 1 << 20  # bytes that a header may take before the sound
ENDLESS = 0x7FFF0000  # bytes; a larger stated size means that the writer did not know it
BLOCK_S = 0.25
CURE = "give it as WAV, such as from: ffmpeg -i SOURCE -f wav -"


def wav_blocks(file: BinaryIO, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield blocks of at most a quarter of a second, each as soon as it has arrived.

    Args:
        file: binary; it need not be seekable.
        name: name of the source for messages.

    Yields:
        Sampling rate in Hz and (frames, channels) float32, full scale at 1, none of them empty.

    Raises:
        AudioError: it is not a WAV with integers of 8 to 32 bits or with floats.
    """
    head = _read(file, 12, name)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        raise AudioError(
            f"{name} is not a WAV, the only format that can be read as it arrives: {CURE}."
        )
    form: _Form | None = None
    while True:
        title, size = _chunk(file, name)
        if title == b"data":
            break
        if size > LONGEST_CHUNK:
            raise AudioError(f"{name} has a damaged header: {CURE}.")
        content = _read(file, size + size % 2, name)
        if title == b"fmt ":
            form = _Form(content, name)
    if form is None:
        raise AudioError(f"{name} does not say what its samples are: {CURE}.")
    left = size if 0 < size < ENDLESS else None  # after a known end come tags, not sound
    wanted, rest = max(1, int(BLOCK_S * form.rate)) * form.frame, b""
    while left is None or left > 0:
        most = wanted if left is None else min(wanted, left)
        # Take what has arrived, not all that is wanted: a pipe may pause.
        content = _some(file, most, name)
        if not content:
            return
        left = None if left is None else left - len(content)
        rest += content
        whole = len(rest) // form.frame * form.frame
        if whole:
            yield form.rate, form.samples(rest[:whole])
            rest = rest[whole:]


class _Form:
    """The sample format of a WAV, from its chunk ``fmt``."""

    def __init__(self, content: bytes, name: str) -> None:
        if len(content) < 16:
            raise AudioError(f"{name} has a damaged header: {CURE}.")
        kind, self.channels = _number(content[:2]), _number(content[2:4])
        self.rate, bits = _number(content[4:8]), _number(content[14:16])
        if kind == EXTENSIBLE and len(content) >= 26:
            kind = _number(content[24:26])
        known = (kind == PCM and bits in (8, 16, 24, 32)) or (kind == FLOAT and bits in (32, 64))
        if not known or not self.channels or not self.rate:
            raise AudioError(f"{name} holds samples of a kind that is not known: {CURE}.")
        self._kind, self._bytes = kind, bits // 8
        self.frame = self.channels * self._bytes

    def samples(self, content: bytes) -> NDArray[np.float32]:
        """Decode whole frames to (frames, channels) float32."""
        width = self._bytes
        values: NDArray[Any]
        if self._kind == FLOAT:
            values = np.frombuffer(content, f"<f{width}").astype(np.float32)
        elif width == 1:  # the only unsigned one
            values = (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
        elif width == 3:  # put into the upper three bytes of 32 bits
            padded = np.zeros((len(content) // 3, 4), np.uint8)
            padded[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
            values = padded.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)
        else:
            whole = np.frombuffer(content, f"<i{width}").astype(np.float32)
            values = whole / np.float32(1 << (8 * width - 1))
        return values.astype(np.float32, copy=False).reshape(-1, self.channels)


def _number(content: bytes) -> int:
    return int.from_bytes(content, "little")


def _chunk(file: BinaryIO, name: str) -> tuple[bytes, int]:
    head = _read(file, 8, name)
    return head[:4], _number(head[4:])


def _read(file: BinaryIO, size: int, name: str) -> bytes:
    content = b""
    while len(content) < size:
        more = _some(file, size - len(content), name)
        if not more:
            raise AudioError(f"{name} ends before its sound begins: {CURE}.")
        content += more
    return content


def _some(file: BinaryIO, most: int, name: str) -> bytes:
    """Read at least one byte and at most ``most``; nothing at the end."""
    read = getattr(file, "read1", file.read)
    try:
        content = read(most)
    except OSError as error:
        raise AudioError(f"{name} cannot be read ({error}): give it again.") from None
    if not isinstance(content, bytes):
        raise AudioError(f"{name} gives text, not bytes: open it in binary mode.")
    return content
