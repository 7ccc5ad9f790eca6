"""Recordings in containers of boxes that are joined in one file: each is heard, or it is said."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from signals import speech_like

from speechprune_ort import AudioError
from speechprune_ort.runtime.hearing.audio import AudioStream
from speechprune_ort.runtime.hearing.boxed import box_walk
from speechprune_ort.runtime.hearing.decoding import Decoded, decode
from speechprune_ort.runtime.hearing.joints import find_joints

av = pytest.importorskip("av", reason="the extra [media] is not installed")

# Ending: FFmpeg's format and codec, the sampling rate, and options of the format.
KINDS: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "m4a": ("ipod", "aac", 16_000, {}),
    "mp4": ("mp4", "aac", 44_100, {"movflags": "empty_moov"}),
    "fragments": ("mp4", "aac", 16_000, {"movflags": "dash", "frag_duration": "500000"}),
    "mov": ("mov", "pcm_s16le", 16_000, {}),
    "3gp": ("3gp", "aac", 16_000, {}),
    "webm": ("webm", "libopus", 48_000, {}),
    "live.webm": ("webm", "libopus", 48_000, {"live": "1"}),
    "mka": ("matroska", "alac", 16_000, {}),
    "wma": ("asf", "wmav2", 44_100, {}),
    "avi": ("avi", "pcm_s16le", 16_000, {}),
    "wv": ("wv", "wavpack", 16_000, {}),
    "tta": ("tta", "tta", 16_000, {}),
    "flv": ("flv", "aac", 44_100, {}),
    "ts": ("mpegts", "aac", 48_000, {}),
    "aac": ("adts", "aac", 16_000, {}),
}  # fmt: skip
OTHERS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU", "W64")


def made(
    kind: str,
    seed: int = 0,
    sound: NDArray[np.float32] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A recording of one of these kinds or of one that libsndfile writes."""
    sound = speech_like(1.5, seed=seed) if sound is None else sound
    out = io.BytesIO()
    if kind not in KINDS:
        soundfile.write(out, sound, 16_000, format=kind)
        return out.getvalue()
    form, codec, rate, known = KINDS[kind]
    with av.open(out, "w", format=form, options=options or known) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout, stream.bit_rate = "mono", 96_000
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, "mono", rate, size)
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return out.getvalue()


def heard(content: bytes) -> tuple[NDArray[np.float32], list[str]]:
    """(samples,) of all blocks, whatever their rates, and the notes."""
    found = Decoded()
    blocks = [block.mean(axis=1) for _, block in decode(io.BytesIO(content), "it", found)]
    return np.concatenate(blocks), found.notes


def check(*parts: bytes) -> None:
    samples, notes = heard(b"".join(parts))
    np.testing.assert_array_equal(samples, np.concatenate([heard(part)[0] for part in parts]))
    assert notes == []


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"aac", "ts"}))
def test_recordings_of_one_kind_are_all_heard(kind: str) -> None:
    check(*(made(kind, seed) for seed in range(3)))


@pytest.mark.parametrize("kind", ["aac", "ts"])
def test_frames_and_packets_are_heard_to_their_end(kind: str) -> None:
    # The decoder goes on from one to the next, as players do: nothing is between them.
    parts = [made(kind, seed) for seed in range(3)]
    samples, notes = heard(b"".join(parts))
    assert len(samples) == sum(len(heard(part)[0]) for part in parts)
    assert notes == []


def test_packets_of_other_tracks_are_another_recording() -> None:
    # FFmpeg numbers tracks from another one on, as two makers of such files do.
    kinds = {"a": {}, "b": {"mpegts_start_pid": "512"}, "c": {"mpegts_pmt_start_pid": "700"}}
    parts = [made("ts", seed, options=options) for seed, options in enumerate(kinds.values())]
    check(*parts[:2])
    check(*parts)
    check(parts[1], parts[0], made("WAV"))
    samples, _ = heard(parts[0] + parts[1][: 188 * 40 + 50] + parts[0])
    assert len(samples) > len(heard(parts[0])[0]) + 16_000


def test_a_track_that_begins_late_ends_no_reading() -> None:
    content = bytearray(made("ts") * 2)
    packets = [at for at in range(len(content) // 2, len(content), 188)
               if content[at + 1] & 0x1F == 1 and content[at + 2] == 0]  # fmt: skip
    for at in packets:  # its list still names the track by its first number
        content[at + 2] = 7
    samples, _ = heard(bytes(content))
    assert len(samples) >= len(heard(made("ts"))[0])


def test_frames_within_packets_are_no_recording_of_their_own() -> None:
    # Frames of silence are so short that many stand in one packet.
    content = made("ts", sound=np.zeros(48_000, np.float32))
    assert find_joints(io.BytesIO(content)).starts == [0]
    assert len(heard(content)[0]) >= 3 * 48_000
    check(content, made("m4a"))


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"ts"}))
@pytest.mark.parametrize("other", [*OTHERS, "m4a", "webm", "wma", "aac"])
def test_another_kind_before_and_behind_is_heard(kind: str, other: str) -> None:
    if kind != other:
        check(made(other, 1), made(kind, 2), made(other, 3))


def test_a_mov_without_a_type_ends_where_the_next_begins() -> None:
    content = made("mov")
    bare = content[int.from_bytes(content[:4], "big") :]
    check(bare, bare)
    check(bare, content)


@pytest.mark.parametrize("kind", ["m4a", "webm", "live.webm", "wma", "avi", "wv", "aac", "W64"])
def test_what_follows_and_is_no_recording_is_named(kind: str) -> None:
    content = made(kind)
    wanted, _ = heard(content)
    for behind in (bytes(5000), b"TAG" + bytes(125)):
        samples, notes = heard(content + behind)
        np.testing.assert_array_equal(samples, wanted)
        assert notes == []
    samples, notes = heard(content + b"no sound" * 2000)
    np.testing.assert_array_equal(samples, wanted)
    (note,) = notes
    assert f"to {len(content) + 16_000} of {len(content) + 16_000} are of no recording" in note
    samples, notes = heard(content + b"no sound" * 2000 + content)
    np.testing.assert_array_equal(samples, np.concatenate([wanted, wanted]))
    assert len(notes) == 1


def test_what_follows_an_mp3_and_is_no_recording_is_named() -> None:
    content = made("MP3")
    samples, notes = heard(content + b"no sound" * 2000)
    np.testing.assert_array_equal(samples, heard(content)[0])
    assert "are of no recording that is known" in notes[0]


@pytest.mark.parametrize("kind", ["mp4", "webm", "wma", "avi", "wv", "tta", "flv", "aac"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_behind_one_that_is_cut_the_next_is_heard_or_it_is_said(kind: str, share: float) -> None:
    first, second = made(kind, 1), made("m4a", 2)
    wanted, _ = heard(second)
    try:
        samples, notes = heard(first[: int(share * len(first))] + second)
    except AudioError:  # nothing of the first can be decoded
        return
    if len(samples) <= len(wanted) or np.abs(samples[-len(wanted) :] - wanted).max() > 0:
        assert notes  # the last box of the first reaches into the second
    assert notes or kind in ("aac", "avi")  # which state no length that could be missed


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_one_that_is_cut_is_used_and_it_is_said(kind: str, share: float) -> None:
    whole = made(kind, sound=speech_like(12.0, seed=0))
    cut = whole[: int(share * len(whole)) | 1]
    all_of_it, notes = heard(whole)
    assert notes == []
    if kind in ("m4a", "mov", "3gp"):  # their index lies behind their sound
        with pytest.raises(AudioError, match="cannot be decoded"):
            heard(cut)
        return
    samples, notes = heard(cut)
    assert 0 < len(samples) < len(all_of_it)
    assert notes


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_header_of_a_codec_within_a_cut_matroska_is_no_recording(share: float) -> None:
    content = made("mka")
    head = b"fLaC\0\0\0\x22" + bytes(34)
    at = content.index(bytes.fromhex("63a2")) + 3  # where the codec's own header stands
    content = content[:at] + head[: content[at - 1] & 127] + content[at + len(head) :]
    assert find_joints(io.BytesIO(content[: int(share * len(content))])).starts == [0]


def test_a_box_without_a_size_reaches_to_the_next_recording() -> None:
    content = bytearray(made("mp4"))
    at = content.index(b"mdat")
    content[at - 4 : at] = bytes(4)
    check(bytes(content), made("webm"), made("m4a"))


def test_a_pipe_is_heard_as_its_file(tmp_path: Path) -> None:
    content = made("m4a", 1) + made("webm", 2)
    ends = os.pipe()
    with os.fdopen(ends[0], "rb") as stream, os.fdopen(ends[1], "wb") as writer:
        thread = threading.Thread(target=lambda: (writer.write(content), writer.close()))
        thread.start()
        piped = np.concatenate(list(AudioStream(stream)))
        thread.join()
    path = tmp_path / "a.m4a"
    path.write_bytes(content)
    np.testing.assert_array_equal(piped, np.concatenate(list(AudioStream(path))))


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_end_where_their_file_does(kind: str) -> None:
    content = made(kind)
    walk = box_walk(content[:16])
    if walk is None:
        assert kind in ("aac", "flv", "tta", "ts")
        return
    end = walk(io.BytesIO(content), 0, len(content))
    assert content[end.place :][:8] in (b"", b"APETAGEX")
    assert not end.open_ended
    assert not end.lacks


@pytest.mark.parametrize(
    "begin", [b"\0\0\0\x10ftypM4A \0\0\0\0", b"\x1aE\xdf\xa3\x80\x18S\x80g\xff"]
)
@pytest.mark.parametrize("box", [b"\0\0\0\x08free", b"\xec\x80", bytes(8), b"\xff" * 8])
def test_boxes_without_end_are_not_searched_for_ever(
    begin: bytes, box: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            return super().read(size)

    monkeypatch.setattr("speechprune_ort.runtime.hearing.boxed.MOST_BOXES", 1000)
    file = Counted(begin + box * 200_000)
    assert find_joints(file).starts == [0]
    assert file.reads < 1100
    with pytest.raises(AudioError, match="cannot be decoded"):
        heard(file.getvalue()[:10_000])
