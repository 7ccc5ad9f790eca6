"""Reads a WAV from a pipe block by block, without waiting for its end."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError
from speechprune_ort.runtime.hearing.boxed import TYPE
from speechprune_ort.runtime.hearing.containers import TAGS, TRAILERS
from speechprune_ort.runtime.hearing.joints import BEGINS

__all__ = ["wav_blocks"]

Block = tuple[int, NDArray[np.float32]]
MAGICS = (b"RIFF", b"RF64", b"BW64")
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
LONGEST_CHUNK = 1 << 20  # bytes that a header may take before the sound
ENDLESS = 0x7FFF0000  # bytes; a larger stated size means that the writer did not know it
MOST_PADDING = 1 << 16  # zero bytes behind the sound that are not sound
BLOCK_S = 0.25
CURE = "give it as WAV, such as from: ffmpeg -i SOURCE -f wav -"


def wav_blocks(file: BinaryIO, name: str, notes: list[str] | None = None) -> Iterator[Block]:
    """Yield blocks of at most a quarter of a second, each as soon as it has arrived.

    What follows the stated end of the sound is heard as in a file: further chunks of samples and
    further recordings, and samples where neither chunks nor tags follow.

    Args:
        file: binary; it need not be seekable.
        name: name of the source for messages.
        notes: takes a sentence on what does not fit the header.

    Yields:
        Sampling rate in Hz and (frames, channels) float32, full scale at 1, none of them empty.

    Raises:
        AudioError: it is not a WAV with integers of 8 to 32 bits or with floats.
    """
    head = _read(file, 12, name)
    if head[:4] not in MAGICS or head[8:] != b"WAVE":
        raise AudioError(
            f"{name} is not a WAV, the only format that can be read as it arrives: {CURE}."
        )
    form: _Form | None = None
    notes = [] if notes is None else notes
    heard = more = False  # of this recording, and of one before it
    stated, odd = 0, b""  # bytes behind the sound that are no whole frame
    while True:
        head = _most(file, 8, name)
        title, size = head[:4], _number(head[4:])
        if (heard or more) and (len(head) < 8 or head.startswith(TAGS)):
            return
        if len(head) < 8:
            raise _no_sound(name)
        if title == b"data":
            if form is None:
                raise AudioError(f"{name} does not say what its samples are: {CURE}.")
            left = size if size < ENDLESS else None
            odd = yield from _sound(file, name, form, left)
            odd += _most(file, size % 2, name)
            heard, stated = True, stated + size
        elif heard and title in MAGICS:
            form, heard, more, stated = None, False, True, 0
            _most(file, 4, name)
        elif heard and (title in BEGINS or head[4:] == TYPE):
            notes.append(
                f"{name} goes on with a recording that is no WAV and cannot be read as it arrives: "
                "only what comes before it was heard."
            )
            return
        elif not heard and size > LONGEST_CHUNK:
            raise AudioError(f"{name} has a damaged header: {CURE}.")
        elif form is None or not heard or _is_chunk(title, size):
            if title == b"fmt ":
                form = _Form(_read(file, size + size % 2, name), name)
            else:
                _skip(file, size + size % 2, name)
            odd = b""
        else:
            ahead = _behind_zeros(file, odd + head, name)
            if ahead and stated:
                notes.append(
                    f"{name} states {stated} bytes of sound and more came: all of it was heard."
                )
            yield from _sound(file, name, form, None, ahead)
            return


def _sound(
    file: BinaryIO, name: str, form: _Form, left: int | None, ahead: bytes = b""
) -> Generator[Block, None, bytes]:
    """Yield samples, and return what is left of the last frame.

    Args:
        file: where they come from.
        name: its name for messages.
        form: their format.
        left: bytes of them; None for all that come.
        ahead: bytes that came already.
    """
    wanted, rest = max(1, int(BLOCK_S * form.rate)) * form.frame, b""
    while left is None or left > 0:
        most = wanted if left is None else min(wanted, left)
        # Take what has arrived, not all that is wanted: a pipe may pause.
        content, ahead = ahead[:most] or _some(file, most, name), ahead[most:]
        if not content:
            break
        left = None if left is None else left - len(content)
        rest += content
        whole = len(rest) // form.frame * form.frame
        if whole:
            yield form.rate, form.samples(rest[:whole])
            rest = rest[whole:]
    return rest


def _behind_zeros(file: BinaryIO, ahead: bytes, name: str) -> bytes:
    """What came, and what comes up to the first byte that is not 0; nothing if all are padding."""
    last = ahead
    while not last.strip(b"\0") and len(ahead) < MOST_PADDING:
        last = _some(file, MOST_PADDING, name)
        if not last:
            return b""
        ahead += last
    return ahead


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


def _is_chunk(title: bytes, size: int) -> bool:
    """Whether a chunk begins behind the sound; samples look like this once in millions of times."""
    if size > LONGEST_CHUNK:
        return title in TRAILERS
    return title.isascii() and all(chr(letter).isalnum() or letter in b" _" for letter in title)


def _skip(file: BinaryIO, size: int, name: str) -> None:
    while size and (content := _some(file, min(size, LONGEST_CHUNK), name)):
        size -= len(content)


def _no_sound(name: str) -> AudioError:
    return AudioError(f"{name} ends before its sound begins: {CURE}.")


def _read(file: BinaryIO, size: int, name: str) -> bytes:
    content = _most(file, size, name)
    if len(content) < size:
        raise _no_sound(name)
    return content


def _most(file: BinaryIO, size: int, name: str) -> bytes:
    """Read so many bytes; fewer at the end alone."""
    content = b""
    while len(content) < size and (more := _some(file, size - len(content), name)):
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
