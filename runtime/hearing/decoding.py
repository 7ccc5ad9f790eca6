"""Decodes recordings: with libsndfile where it reads a whole file, else with FFmpeg's libraries."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError
from speechprune_ort.runtime.hearing import mpeg, ogg
from speechprune_ort.runtime.hearing.binary_file import BinaryFile, Part, Repaired, Spliced
from speechprune_ort.runtime.hearing.containers import one_by_one, repair_sizes
from speechprune_ort.runtime.hearing.joints import find_joints
from speechprune_ort.runtime.hearing.overheard import overheard

__all__ = ["BLOCK_FRAMES", "Block", "Decoded", "decode", "decode_by_ffmpeg", "stated_seconds"]

Block = tuple[int, NDArray[np.float32]]
"""Sampling rate in Hz, and samples (frames, channels)."""

BLOCK_FRAMES = 1 << 18  # decoded at a time: a long stereo file is never in memory twice
HEARD = {"AIFF", "AU", "CAF", "FLAC", "MP3", "MPEG", "NIST", "OGG", "RF64", "W64", "WAV", "WAVEX"}
"""Formats that libsndfile may decode: with others it plays headers as sound if files are joined."""
SMALL_BLOCK = 64  # frames, to get close to the damage in a file
UNKNOWN = 1 << 60  # frames; from here on libsndfile means that it does not know
MOST_NOTES = 3  # about the damage to one recording
UNREAD = 4096  # bytes after the last sample that may be tags
MISSED_S = 0.1  # seconds; a recording shorter than stated by more than this gets a note

LIBSNDFILE, FFMPEG = "libsndfile", "ffmpeg"
INSTALL = "pip install 'speechprune-ort[media]'"

# FFmpeg's formats that hold sound. Playlists, pictures, subtitles and scripts are left out: some of
# them open other files.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,gsm,loas,matroska,mov,"
    "mp3,mpc,mpc8,mpeg,mpegts,ogg,oma,rm,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
PLANAR = {"dblp": "f8", "fltp": "f4", "s16p": "i2", "s32p": "i4", "u8p": "u1"}
"""Numpy's names of FFmpeg's formats of samples with a plane for each channel."""
CLOCK = re.compile(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d{1,9})?)")
STATES_LENGTH = {"asf", "flac", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "tta", "wav"}


@dataclass(slots=True)
class Decoded:
    """What is learnt about a recording while it is read.

    Attributes:
        decoder: ``libsndfile``, ``ffmpeg``, or both joined by ``+`` where the second took over; or
            ``array``.
        notes: whole sentences about what was wrong with it.
    """

    decoder: str = ""
    notes: list[str] = field(default_factory=list)

    def by(self, decoder: str) -> None:
        """Record that a decoder was used."""
        if decoder not in self.decoder:
            self.decoder = f"{self.decoder}+{decoder}" if self.decoder else decoder


class _Watched:
    """A file for libsndfile, which cannot be told of errors: they are raised after its call."""

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # whatever a caller's file object raises
            self.error = error
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with suppress(AudioError, OSError, ValueError):  # only a damaged header asks for it
            return self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        try:
            return self._file.tell()
        except Exception as error:
            self.error = error
            return 0

    def check(self, name: str) -> None:
        if isinstance(self.error, AudioError):
            raise self.error
        if self.error is not None:
            raise AudioError(
                f"{name} cannot be read ({self.error}): give it again."
            ) from self.error


class _Heeded(_Watched):
    """The same for FFmpeg, which must be told of a failed seek: it would assume success."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)


class _Endless(soundfile.SoundFile):  # type: ignore[misc]  # it has no types
    """A file of unknown length: it is read until nothing comes, without seeking."""

    def seekable(self) -> bool:
        return False


def decode(file: BinaryFile, name: str, found: Decoded) -> Iterator[Block]:
    """Decode all samples of a recording, and only those, whatever length its header states.

    Args:
        file: binary and seekable.
        name: for messages.
        found: collects the decoder and the notes.

    Yields:
        Sampling rate and (frames, channels) float32, full scale at 1, none of them empty. The rate
        and the number of channels may change from block to block.

    Raises:
        AudioError: it holds no sound, or only FFmpeg can decode it and is not installed.
    """
    joints = find_joints(file)
    found.notes.extend(_damaged(name, wrong) for wrong in joints.wrong[:MOST_NOTES])
    end = file.seek(0, os.SEEK_END)
    for start, stop in joints.parts(end):
        begin = mpeg.behind_tags(file, start)  # which no decoder knows all of
        start = begin if begin < stop else start
        part = Part(file, start, stop) if stop - start < end else file
        if stop == end and joints.lacks:  # libsndfile drops a frame that is not whole
            part = Spliced(part, (0, part.seek(0, os.SEEK_END)), bytes(joints.lacks))
        for alone in one_by_one(part, name):
            yield from _decode(alone, name, found)
    if joints.cut and not _is_noted(found, name):
        found.notes.append(_damaged(name, joints.cut))


def _decode(file: BinaryFile, name: str, found: Decoded) -> Iterator[Block]:
    """Decode one recording, not several joined in a file."""
    sound, wrong = repair_sizes(file)
    if wrong:
        found.notes.append(_damaged(name, wrong))
    tracks, watched = ogg.sound_tracks(sound), _Watched(sound)
    try:
        opened = _opened(watched)
        if opened.format not in HEARD or (sound is not file and opened.subtype[:4] == "ALAC"):
            # libsndfile makes up the sound of packets that a cut file lacks.
            opened.close()
            raise RuntimeError(f"{opened.format_info}, {opened.subtype_info}, is not read by it")
        if opened.format == "MP3":
            stating = mpeg.stating_length(sound, opened.frames)
            if stating is not sound:
                opened.close()
                sound, watched = stating, _Watched(stating)
                opened = _opened(watched)
    except (RuntimeError, TypeError) as error:
        watched.check(name)
        yield from _Ffmpeg(file, name, found, _reason(error)).blocks()
        return
    with opened:
        _note_tracks(found, name, tracks)
        yield from _Sndfile(opened, watched, sound, name, found).blocks()


def _opened(watched: _Watched) -> soundfile.SoundFile:
    with overheard():
        watched.seek(0)
        opened = soundfile.SoundFile(watched)
        if opened.frames >= UNKNOWN:
            opened.close()
            watched.seek(0)
            opened = _Endless(watched)
    return opened


def decode_by_ffmpeg(file: BinaryFile, name: str, found: Decoded) -> Iterator[Block]:
    """Decode with FFmpeg's libraries alone, for comparisons; arguments as for ``decode``."""
    return _Ffmpeg(file, name, found, "not asked").blocks()


class _Sndfile:
    """A file that libsndfile has opened; FFmpeg takes over where it does not read all of it."""

    def __init__(
        self,
        opened: soundfile.SoundFile,
        watched: _Watched,
        file: BinaryFile,
        name: str,
        found: Decoded,
    ) -> None:
        self._opened, self._watched, self._file = opened, watched, file
        self._name, self._found = name, found
        self._said: list[str] = []

    def blocks(self) -> Iterator[Block]:
        rate, frames = self._opened.samplerate, 0
        end = self._watched.tell()
        try:
            while len(block := self._read(self._opened, BLOCK_FRAMES)):
                self._found.by(LIBSNDFILE)
                frames += len(block)
                yield rate, block
                end = self._watched.tell()
        except RuntimeError as error:
            yield from self._after_damage(rate, frames, _reason(error))
            return
        self._watched.check(self._name)
        stated = self._opened.frames
        guessed = self._opened.format == "MP3" and not mpeg.states_length(self._file)
        if self._goes_on(end, frames):
            cause = "goes on after the length that its header states"
            yield from self._by_ffmpeg(f"it {cause}", frames, cause)
            return
        short = frames and stated < UNKNOWN and (stated - frames) / rate > MISSED_S
        if short and self._left(end) > UNREAD and _has_ffmpeg():
            # libsndfile has read a part of an undamaged file and given up without an error.
            yield from self._by_ffmpeg(
                "libsndfile stopped early", frames, "holds more than libsndfile reads"
            )
            return
        if short and not guessed and not _is_noted(self._found, self._name):
            self._found.notes.append(_cut(self._name, stated / rate, frames / rate))
        if self._said and not _is_noted(self._found, self._name):
            self._found.notes.append(_damaged(self._name, f"its decoder says {self._said[0]!r}"))

    def _by_ffmpeg(self, reason: str, frames: int, cause: str) -> Iterator[Block]:
        file, name, found = self._file, self._name, self._found
        heard = Fraction(frames, self._opened.samplerate)
        return _Ffmpeg(file, name, found, reason, heard, cause).blocks()

    def _read(self, opened: soundfile.SoundFile, frames: int) -> NDArray[np.float32]:
        block: NDArray[np.float32]
        if opened.format != "MP3":  # only the decoder of mp3 prints
            block = opened.read(frames, dtype="float32", always_2d=True)
            return block
        with overheard() as said:
            block = opened.read(frames, dtype="float32", always_2d=True)
        self._said += said
        return block

    def _goes_on(self, end: int, frames: int) -> bool:
        """Whether sound follows the last frame that libsndfile gave."""
        if self._left(end) <= UNREAD and self._opened.format != "MP3":
            return False
        if self._opened.format == "MP3":
            return frames >= self._opened.frames and mpeg.goes_on(self._file, end)
        if self._opened.format == "FLAC":
            self._file.seek(end)
            return not self._file.read(8).startswith((b"APETAGEX", b"TAG", b"ID3"))
        return isinstance(self._file, Repaired)  # above 4 GiB, which its size field cannot state

    def _left(self, end: int) -> int:
        """Bytes of the file after an offset."""
        return self._file.seek(0, os.SEEK_END) - end

    def _after_damage(self, rate: int, frames: int, reason: str) -> Iterator[Block]:
        """Decode what follows the frames that came before an error."""
        if _has_ffmpeg():
            yield from self._by_ffmpeg(reason, frames, f"is damaged ({reason})")
            return
        self._watched.seek(0)
        came = 0
        try:
            with _Endless(self._watched) as again:
                while came < frames:  # these were given already
                    came += len(self._read(again, BLOCK_FRAMES))
                while len(block := self._read(again, SMALL_BLOCK)):
                    came += len(block)
                    yield rate, block
        except RuntimeError:
            self._watched.check(self._name)
        if not came:
            raise _undecodable(self._name, reason)
        self._found.by(LIBSNDFILE)
        self._found.notes.append(
            f"{self._name} is damaged ({reason}): its first {came / rate:.1f} s were used; to "
            f"decode what follows them, {INSTALL}."
        )


def stated_seconds(file: BinaryFile) -> float | None:
    """The length that a file states, for a progress bar; None if it states none."""
    file.seek(0)
    try:
        with overheard(), soundfile.SoundFile(_Watched(file)) as opened:
            seconds = float(opened.frames / opened.samplerate)
            return seconds if 0 < opened.frames < UNKNOWN else None
    except (RuntimeError, TypeError, ZeroDivisionError):
        return None
    finally:
        file.seek(0)


def _has_ffmpeg() -> bool:
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


class _Ffmpeg:
    """Decodes a file with FFmpeg's libraries, through PyAV.

    Args:
        file: as for ``decode``.
        name: for messages.
        found: collects the decoder and the notes.
        reason: why libsndfile does not decode it.
        skip: seconds from the start that libsndfile did decode; not frames, as FFmpeg decodes
            Opus at another rate.
        cause: what is wrong with the file, for a note: the rest of a sentence that names it.
    """

    def __init__(
        self,
        file: BinaryFile,
        name: str,
        found: Decoded,
        reason: str,
        skip: Fraction = Fraction(0),
        cause: str = "",
    ) -> None:
        self._file, self._name, self._found = _Heeded(file), name, found
        self._reason, self._skip, self._cause = reason, skip, cause
        self._others = 0.0  # seconds at which another track ends

    def blocks(self) -> Iterator[Block]:
        if not _has_ffmpeg():
            raise self._missing()
        import av

        self._file.seek(0)
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
        try:
            container = av.open(self._file, container_options=options, metadata_errors="replace")
        except _ffmpeg_raises() as error:
            self._file.check(self._name)
            raise _undecodable(self._name, f"{self._reason}; {_reason(error)}") from None
        with container:
            streams = container.streams.audio
            if not streams:
                raise AudioError(f"{self._name} holds no sound, only pictures: give a recording.")
            _note_tracks(self._found, self._name, len(streams))
            yield from self._decoded(container, streams[0])

    def _decoded(self, container: Any, stream: Any) -> Iterator[Block]:
        good, bad, seconds, skip = 0, 0, 0.0, -1
        waiting: list[NDArray[np.float32]] = []
        rate, held = 0, 0
        for frames in self._packets(container, stream):
            bad += frames is None
            for frame in frames or ():
                try:
                    samples = _floats(frame)
                except ValueError as error:  # such as 64-bit integers
                    raise _undecodable(self._name, f"{self._reason}; {_reason(error)}") from None
                good += 1
                seconds += len(samples) / frame.sample_rate
                if skip < 0:
                    skip = round(self._skip * frame.sample_rate)
                new, skip = samples[skip:], max(0, skip - len(samples))
                if not len(new):
                    continue
                self._found.by(FFMPEG)
                other = rate != frame.sample_rate or (held and waiting[-1].shape[1] != new.shape[1])
                if held and (other or held >= BLOCK_FRAMES):
                    yield rate, np.concatenate(waiting)
                    waiting.clear()
                    held = 0
                rate = frame.sample_rate
                waiting.append(new)
                held += len(new)
        if held:
            yield rate, np.concatenate(waiting)
        self._file.check(self._name)
        if bad > good:
            raise _undecodable(self._name, f"{self._reason}; most of it is damaged")
        stated, cause = _stated_seconds(container, stream, self._others), self._cause
        if cause or bad:
            self._found.notes.append(
                f"{self._name} {cause or 'is damaged'}: what could be decoded was used, "
                f"{seconds:.1f} s."
            )
        elif stated and stated - seconds > max(MISSED_S, 0.01 * stated):
            self._found.notes.append(_cut(self._name, stated, seconds))

    def _packets(self, container: Any, stream: Any) -> Iterator[list[Any] | None]:
        """Yield the frames of each packet; None for a damaged one."""
        import av

        packets = container.demux()
        while True:
            try:
                packet = next(packets)
            except (StopIteration, IndexError):
                return  # PyAV raises the latter at the end of a file in which a track began late
            except _ffmpeg_raises():
                yield None
                return
            if packet.stream_index != stream.index:
                if packet.pts is not None:
                    ends = (packet.pts + (packet.duration or 0)) * packet.time_base
                    self._others = max(self._others, float(ends))
                continue
            try:
                yield packet.decode()
            except av.EOFError:
                return
            except _ffmpeg_raises():
                yield None

    def _missing(self) -> AudioError:
        return AudioError(
            f"{self._name} cannot be decoded as audio by libsndfile ({self._reason}): give wav, "
            f"flac, ogg or mp3; for m4a, mp4, aac, webm, wma and damaged files, {INSTALL}."
        )


def _ffmpeg_raises() -> tuple[type[Exception], ...]:
    """What PyAV raises on damaged files.

    Besides its own errors: a damaged header may ask for a seek that no file can do.
    """
    import av

    return (av.FFmpegError, AudioError, OSError, ValueError, OverflowError)


def _floats(frame: Any) -> NDArray[np.float32]:
    """The samples of a frame as (frames, channels) float32, full scale at 1 as in libsndfile."""
    channels = frame.layout.nb_channels
    array: NDArray[Any]
    if frame.format.is_planar:
        # Not frame.to_ndarray(): it takes whatever stands behind the eighth plane for a plane.
        dtype = PLANAR.get(frame.format.name)
        if dtype is None:
            raise ValueError(f"samples of {frame.format.name} are not read")
        planes = frame.planes[:channels]
        array = np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes], axis=1)
    else:
        array = frame.to_ndarray().reshape(-1, channels)
    samples = np.ascontiguousarray(array, np.float32)
    if array.dtype == np.uint8:
        samples = (samples - np.float32(128)) / np.float32(128)
    elif array.dtype.kind == "i":
        samples /= np.float32(2.0 ** (8 * array.dtype.itemsize - 1))
    return samples


def _stated_seconds(container: Any, stream: Any, others: float) -> float | None:
    """The length that a container states of a track.

    Where it states that of the whole alone, another track may be the one that goes on so long.

    Args:
        container: the container.
        stream: the track.
        others: seconds that another track was found to go on.
    """
    if container.format.name not in STATES_LENGTH or stream.time_base is None:
        return None
    unit = float(stream.time_base)
    own, start = stream.duration, (stream.start_time or 0) * unit
    if own is not None and container.format.name != "asf":  # which has FFmpeg fill it in
        return float(own * unit)
    if found := CLOCK.fullmatch(stream.metadata.get("DURATION", "")):  # of matroska
        hours, minutes, seconds = map(float, found.groups())
        return 3600 * hours + 60 * minutes + seconds - start
    if own is None and container.duration is None:
        return None
    whole = container.duration / 1e6 - start if own is None else float(own * unit)
    return None if others > whole - MISSED_S else whole


def _note_tracks(found: Decoded, name: str, tracks: int) -> None:
    """Say once which of several tracks is heard, whichever decoders read the recording."""
    note = f"{name} holds {tracks} sound tracks: only the first was used."
    if tracks > 1 and note not in found.notes:
        found.notes.append(note)


def _damaged(name: str, wrong: str) -> str:
    return f"{name} is damaged: {wrong}; what could be decoded was used."


def _is_noted(found: Decoded, name: str) -> bool:
    """Whether a note already says that the recording is damaged."""
    return any("damaged" in note.removeprefix(name) for note in found.notes)


def _cut(name: str, stated: float, heard: float) -> str:
    return (
        f"{name} states {stated:.1f} s and holds {heard:.1f} s: it is cut or damaged, and what is "
        "there was used."
    )


def _reason(error: Exception) -> str:
    """A library's error message without the name of the object that it was given."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(text).split("': ")[-1].strip().rstrip(".") or type(error).__name__


def _undecodable(name: str, reason: str) -> AudioError:
    return AudioError(
        f"{name} cannot be decoded as audio ({reason}): give wav, flac, ogg, mp3, m4a or webm that "
        "a player can play."
    )
