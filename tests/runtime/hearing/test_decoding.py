"""Only what was decoded is heard, and all of it, whatever a header says of the length."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from paths import TROUBLE
from signals import speech_like

from speechprune_ort import AudioError, AudioOptions, DeadlineError, OptionError
from speechprune_ort.cancel import Limits
from speechprune_ort.files import content_of
from speechprune_ort.runtime.hearing import mpeg, ogg, streams
from speechprune_ort.runtime.hearing.audio import AudioStream, audio_seconds, load_audio
from speechprune_ort.runtime.hearing.containers import repair_sizes
from speechprune_ort.runtime.hearing.decoding import Decoded, decode_by_ffmpeg
from speechprune_ort.runtime.hearing.joints import Joints, find_joints
from speechprune_ort.runtime.hearing.overheard import overheard
from speechprune_ort.text import check_path

# File: its rate, the samples that ffmpeg 5.1.9 finds in it, and their RMS second by second. Of the
# chain they are those of its two links, each by itself: see the test of chains below.
FACTS: dict[str, tuple[int, int, list[float]]] = {
    "chained.ogg": (16_000, 352_000, [
        0.213, 0.2284, 0.0156, 0.1483, 0.1312, 0.1272, 0.1244, 0.1294, 0.1398, 0.1217, 0.0591,
        0.2128, 0.2284, 0.0175, 0.1483, 0.1312, 0.1245, 0.1271, 0.1295, 0.1384, 0.1232, 0.0589,
    ]),
    "cut.mp3": (16_000, 78_383, [0.2022, 0.2169, 0.0147, 0.1401]),
    "gsm.wav": (8_000, 48_000, [0.2053, 0.2148, 0.0136, 0.1305, 0.1208, 0.1164]),
    "length_unknown.flac": (16_000, 96_000, [0.2129, 0.2284, 0.0155, 0.1475, 0.1306, 0.1268]),
    "mp3_in_wav.wav": (44_100, 487_296, [
        0.2019, 0.2169, 0.0192, 0.1401, 0.1241, 0.1175, 0.1209, 0.1226, 0.1306, 0.117, 0.0553,
    ]),
    "noxing.mp3": (44_100, 487_296, [
        0.2125, 0.2283, 0.0202, 0.1475, 0.1307, 0.1236, 0.1269, 0.1291, 0.1374, 0.1233, 0.0583,
    ]),
    "two_joined.mp3": (16_000, 353_711, [
        0.2022, 0.2169, 0.0147, 0.1401, 0.1241, 0.1205, 0.1178, 0.1226, 0.1324, 0.1153, 0.0555,
        0.1828, 0.2254, 0.063, 0.1401, 0.1241, 0.1174, 0.1207, 0.1227, 0.1277, 0.0978, 0.0882,
    ]),
}  # fmt: skip
# Of the samples as 16-bit integers, where decoding is exact.
HASHES = {
    "gsm.wav": "08f43e6506507ad7b63d58c30543031c616bfbe7074a7771c0c7d17cd5d93437",
    "length_unknown.flac": "a8e2d6402ab1e47a6cf3f250c933ff4835de118e0a2cf565500bcb687a824595",
}
NEEDS_FFMPEG = {"two_joined.mp3"}


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed."""
    monkeypatch.setitem(sys.modules, "av", None)


def heard(source: Any, to: int = 16_000, **options: Any) -> tuple[NDArray[np.float32], AudioStream]:
    stream = AudioStream(source, to=to, options=AudioOptions(**options))
    return np.concatenate(list(stream)), stream


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("installed", [True, False])
def test_trouble_is_heard_as_ffmpeg_hears_it_or_refused_by_name(
    name: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        pytest.importorskip("av", reason="the extra [media] is not installed")
    else:
        monkeypatch.setitem(sys.modules, "av", None)
    path, (rate, count, levels) = TROUBLE / name, FACTS[name]
    if name in NEEDS_FFMPEG and not installed:
        with pytest.raises(AudioError, match=r"speechprune-ort\[media\]") as caught:
            load_audio(path)
        assert name in str(caught.value)
        return
    # Another recording first: no sample of it may be heard in this one.
    load_audio(speech_like(20.0), 16_000)
    samples, stream = heard(path, rate)
    assert len(samples) == count
    seconds = samples[: len(levels) * rate].reshape(-1, rate)
    np.testing.assert_allclose(np.sqrt((seconds**2).mean(axis=1)), levels, rtol=0.02, atol=2e-3)
    assert stream.decoder.split("+")[-1] == ("ffmpeg" if name in NEEDS_FFMPEG else "libsndfile")
    if name in HASHES:
        pcm = np.round(samples * 32_768).astype("<i2").tobytes()
        assert hashlib.sha256(pcm).hexdigest() == HASHES[name]
    again, _ = heard(path, rate)
    np.testing.assert_array_equal(again, samples)


def by_ffmpeg(content: bytes) -> NDArray[np.float32]:
    """(samples,) by FFmpeg's libraries alone, channels averaged."""
    pytest.importorskip("av", reason="the extra [media] is not installed")
    blocks = decode_by_ffmpeg(io.BytesIO(content), "it", Decoded())
    return np.concatenate([block.mean(axis=1, dtype=np.float32) for _, block in blocks])


@pytest.mark.parametrize("name", sorted(FACTS.keys() - {"chained.ogg"}))
def test_trouble_is_heard_as_ffmpeg_hears_it_sample_for_sample(name: str) -> None:
    samples, _ = heard(TROUBLE / name, FACTS[name][0])
    np.testing.assert_allclose(samples, by_ffmpeg((TROUBLE / name).read_bytes()), rtol=0, atol=1e-5)


def test_a_chain_is_what_ffmpeg_hears_of_its_links() -> None:
    content = (TROUBLE / "chained.ogg").read_bytes()
    second = content.index(ogg.BEGIN, 1)
    links = [by_ffmpeg(content[:second]), by_ffmpeg(content[second:])]
    samples, _ = heard(content)
    np.testing.assert_allclose(samples, np.concatenate(links), rtol=0, atol=1e-5)
    # Of the chain FFmpeg does not leave out what pads the first link to whole packets.
    whole, first = by_ffmpeg(content), len(links[0])
    np.testing.assert_allclose(whole[:first], links[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(whole[first + 256 :], links[1], rtol=0, atol=1e-5)


def test_what_is_missing_or_goes_on_is_noted() -> None:
    assert "states 11.0 s and holds 4.9 s" in heard(TROUBLE / "cut.mp3")[1].notes[0]
    for name in ("gsm.wav", "length_unknown.flac", "mp3_in_wav.wav", "noxing.mp3"):
        assert heard(TROUBLE / name)[1].notes == (), name
    pytest.importorskip("av", reason="the extra [media] is not installed")
    assert "goes on after the length" in heard(TROUBLE / "two_joined.mp3")[1].notes[0]


# What is read of ordinary files is what soundfile's own blocks gave before.
ORDINARY = [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "PCM_U8"), ("wav", "FLOAT"),
            ("wav", "ALAW"), ("wav", "IMA_ADPCM"), ("aiff", "PCM_16"), ("au", "PCM_16"),
            ("caf", "PCM_16"), ("w64", "PCM_16"), ("rf64", "PCM_16"), ("flac", "PCM_16"),
            ("flac", "PCM_24"), ("ogg", "VORBIS"), ("ogg", "OPUS"),
            ("mp3", "MPEG_LAYER_III")]  # fmt: skip


@pytest.mark.parametrize(("ending", "subtype"), ORDINARY)
def test_ordinary_files_are_heard_bit_for_bit(ending: str, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    left, right = speech_like(35.0, 1), speech_like(35.0, 2)  # more than two blocks
    sound = np.stack([left, right], axis=1)
    soundfile.write(path, sound, 16_000, subtype=subtype, format=ending.upper())
    with soundfile.SoundFile(path) as file:
        blocks = file.blocks(1 << 18, dtype="float32", always_2d=True)
        wanted = np.concatenate([block.mean(axis=1, dtype=np.float32) for block in blocks])
    samples, stream = heard(path)
    np.testing.assert_array_equal(samples[: len(wanted)], wanted)
    assert len(samples) == len(wanted)
    assert stream.decoder == "libsndfile"
    assert stream.notes == ()


def wav(seconds: float = 3.0) -> tuple[bytes, NDArray[np.float32]]:
    """A 16-bit wav of 44 bytes of header, and its samples."""
    sound = np.round(speech_like(seconds) * 32_767).astype(np.int16)
    out = io.BytesIO()
    soundfile.write(out, sound, 16_000, format="WAV", subtype="PCM_16")
    return out.getvalue(), sound.astype(np.float32) / 32_768


@pytest.mark.parametrize("stated", [0, 1000, 2**31 - 1, 2**31 - 44, 2**32 - 1, 10**6])
@pytest.mark.parametrize("riff", [0, 36, 2**32 - 1])
def test_a_wav_ends_where_its_file_does(stated: int, riff: int, no_ffmpeg: None) -> None:
    content, sound = wav()
    changed = bytearray(content)
    changed[4:8] = riff.to_bytes(4, "little")
    changed[40:44] = stated.to_bytes(4, "little")
    samples, stream = heard(bytes(changed))
    np.testing.assert_array_equal(samples, sound)
    # Writers to pipes state the largest numbers: nothing is wrong with those.
    assert bool(stream.notes) == (stated < 2**30)


# Where each container states how long it is: a name before it, places behind that, and width.
SIZES = {"AIFF": (b"SSND", 4, 4, "big"), "AU": (b".snd", 8, 4, "big"),
         "CAF": (b"data", 4, 8, "big"), "W64": (b"data", 16, 8, "little"),
         "RF64": (b"ds64", 16, 8, "little"), "FLAC": (b"fLaC", 22, 4, "big")}  # fmt: skip


@pytest.mark.parametrize("container", SIZES)
@pytest.mark.parametrize("stated", [0, 1000, 10**7, 2**31 - 1])
@pytest.mark.parametrize("installed", [True, False])
def test_no_container_is_believed(
    container: str, stated: int, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        pytest.importorskip("av", reason="the extra [media] is not installed")
    else:
        monkeypatch.setitem(sys.modules, "av", None)
    out, sound = io.BytesIO(), np.round(speech_like(4.0) * 32_767).astype(np.int16)
    soundfile.write(out, sound, 16_000, format=container, subtype="PCM_16")
    content = bytearray(out.getvalue())
    name, behind, width, order = SIZES[container]
    place = content.index(name) + behind
    content[place : place + width] = stated.to_bytes(width, order)  # type: ignore[arg-type]
    if container == "FLAC" and stated == 1000 and not installed:
        with pytest.raises(AudioError, match="goes on after the length"):
            heard(bytes(content))
        return
    np.testing.assert_array_equal(heard(bytes(content))[0], sound.astype(np.float32) / 32_768)


def test_chunks_behind_the_samples_are_no_sound(no_ffmpeg: None) -> None:
    content, sound = wav()
    for behind in (
        b"LIST" + (30).to_bytes(4, "little") + b"\x01" * 30,
        b"id3 " + (9000).to_bytes(4, "little") + bytes(range(250)) * 36,
        b"LIST" + (9000).to_bytes(4, "little") + b"\x01" * 30,  # cut
        bytes(5000),
        b"\0",
        b"TAG" + bytes(range(125)),
    ):
        samples, stream = heard(content + behind)
        np.testing.assert_array_equal(samples, sound)
        assert stream.notes == ()


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "CAF", "AU", "W64", "OGG"])
def test_recordings_behind_each_other_are_all_heard(kind: str, no_ffmpeg: None) -> None:
    whole, sounds = b"", []
    for seed, (rate, channels) in enumerate([(16_000, 1), (8_000, 2), (16_000, 1)]):
        mono = np.random.default_rng(seed).uniform(-0.5, 0.5, 9_001)
        out = io.BytesIO()
        soundfile.write(out, np.stack([mono] * channels, 1), rate, format=kind)
        whole += out.getvalue()
        sounds.append(heard(out.getvalue())[0])
    samples, stream = heard(whole)
    np.testing.assert_array_equal(samples, np.concatenate(sounds))
    assert stream.notes == ()
    # The last one is cut.
    samples, stream = heard(whole[:-600])
    assert len(samples) < sum(map(len, sounds))
    np.testing.assert_array_equal(samples[:27_000], np.concatenate(sounds)[:27_000])
    assert kind == "W64" or "damaged" in stream.notes[0]


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "CAF", "W64"])
def test_every_chunk_of_samples_is_heard(kind: str, no_ffmpeg: None) -> None:
    chunk, sounds, files = b"SSND" if kind == "AIFF" else b"data", [], list[bytes]()
    for seed in range(3):
        out = io.BytesIO()
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 9_001)
        soundfile.write(out, noise, 16_000, format=kind)
        sounds.append(heard(out.getvalue())[0])
        files.append(out.getvalue())
    # Whatever stands between them, and whatever the last of them states.
    others = b"LIST\4\0\0\0INFO" if kind.startswith("WAV") else b""
    first, second, third = (file[file.index(chunk) :] for file in files)
    if kind == "RF64":  # they state their sizes elsewhere
        second, third = (b"data" + struct.pack("<I", 18_002) + c[8:] for c in (second, third))
    whole = files[0] + second + (bytes(-len(second) % 8) if kind == "W64" else others) + third
    if kind == "W64":
        whole = files[0] + bytes(-len(first) % 8) + whole[len(files[0]) :]
        whole = whole[:16] + len(whole).to_bytes(8, "little") + whole[24:]
    samples, stream = heard(whole)
    np.testing.assert_array_equal(samples, np.concatenate(sounds))
    assert stream.notes == ()
    samples, stream = heard(whole[:-600])
    np.testing.assert_array_equal(samples, np.concatenate(sounds)[:-300])
    assert stream.notes


def test_chunks_of_samples_may_differ_in_their_format(no_ffmpeg: None) -> None:
    (mono, sound), out = wav(), io.BytesIO()
    soundfile.write(out, np.stack([sound, sound], 1), 16_000, format="WAV")
    samples, stream = heard(mono + out.getvalue()[12:])
    np.testing.assert_array_equal(samples, np.concatenate([sound, sound]))
    assert stream.notes == ()
    with pytest.raises(AudioError, match="more than 10000 pieces"):
        heard(mono + b"data\0\0\0\0" * 10_000)


def test_a_file_of_chunks_without_end_is_not_searched_for_ever() -> None:
    def reads(content: bytes) -> int:
        file = Counted(content)
        assert find_joints(file) == Joints([0])
        return file.reads

    begin = b"RIFF\0\0\0\0WAVE"
    assert reads(begin + b"JUNK\0\0\0\0" * 100_000) < 2_000
    assert reads(begin + bytes(1 << 20)) < 10
    file = Counted(begin + b"fmt \0\0\0\0" + bytes(1 << 20))
    repair_sizes(file)
    assert file.reads < 20_000


@pytest.mark.parametrize("stated", [2**62, 2**63 - 1, 2**64 - 1])
def test_a_length_that_no_file_can_have_is_not_sought(stated: int, tmp_path: Path) -> None:
    path = tmp_path / "sound.w64"
    samples = speech_like(1.0)
    soundfile.write(path, samples, 16_000, "FLOAT", format="W64")
    content = bytearray(path.read_bytes())
    content[16:24] = stated.to_bytes(8, "little")
    path.write_bytes(content)
    for source in (path, bytes(content)):
        np.testing.assert_array_equal(load_audio(source), samples)


class Counted(io.BytesIO):
    """Counts how often it is read."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)


def test_numbers_that_no_array_takes_are_a_sentence() -> None:
    content = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 8000, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 128_000, 8,
        64, b"data", 8000,
    )  # fmt: skip
    with pytest.raises(AudioError, match=r"cannot be decoded as audio .*'s64'"):
        load_audio(content + bytes(8000))


@pytest.mark.parametrize("kind", ["W64", "NIST"])
def test_a_cut_file_says_so_where_its_decoder_does_not(kind: str, no_ffmpeg: None) -> None:
    content = written(speech_like(2.0), kind, "PCM_16")
    assert not AudioStreamOf(content).notes
    heard = AudioStreamOf(content[: len(content) // 2])
    assert 0.9 < heard.seconds < 1.1
    assert "states" in heard.notes[0]


@pytest.mark.parametrize("installed", [True, False])
def test_of_half_an_alac_nothing_is_made_up(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written(speech_like(6.0), "CAF", "ALAC_16")
    if not installed:
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(AudioError, match=r"speechprune-ort\[media\]"):
            load_audio(content[: len(content) // 2])
        return
    whole, half = load_audio(content), load_audio(content[: len(content) // 2])
    assert 2 < len(half) / 16_000 < 4
    np.testing.assert_array_equal(half, whole[: len(half)])
    np.testing.assert_array_equal(load_audio(content + content), np.concatenate([whole, whole]))


@pytest.mark.parametrize("kind", ["MAT5", "AVR", "WVE", "IRCAM"])
def test_what_nobody_records_in_is_refused(kind: str, no_ffmpeg: None) -> None:
    # Joined, the header of the second file would be heard as sound.
    subtype = {"MAT5": "DOUBLE", "WVE": "ALAW"}.get(kind, "PCM_16")
    with pytest.raises(AudioError, match="is not read"):
        load_audio(written(speech_like(1.0), kind, subtype))


def written(samples: NDArray[np.float32], kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 8_000 if kind == "WVE" else 16_000, subtype, format=kind)
    return file.getvalue()


class AudioStreamOf:
    """What is heard of a file's content, and the notes on it."""

    def __init__(self, content: bytes) -> None:
        stream = AudioStream(content)
        self.seconds = sum(map(len, stream)) / 16_000
        self.notes = stream.notes


def test_a_cut_wav_says_so(no_ffmpeg: None) -> None:
    content, sound = wav()
    samples, stream = heard(content[: 44 + 32_000])
    np.testing.assert_array_equal(samples, sound[:16_000])
    assert "damaged" in stream.notes[0]


def made(folder: Path, ending: str, seconds: float = 6.0) -> Path:
    path = folder / f"a.{ending}"
    soundfile.write(path, speech_like(seconds), 16_000)
    return path


@pytest.mark.parametrize("installed", [True, False])
def test_half_a_flac_is_heard_and_noted(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        pytest.importorskip("av", reason="the extra [media] is not installed")
    else:
        monkeypatch.setitem(sys.modules, "av", None)
    path = made(tmp_path, "flac", 40.0)
    whole = load_audio(path)
    content = path.read_bytes()
    for share in (0.3, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        samples, stream = heard(path)
        assert len(samples) > 0.25 * share * len(whole)
        np.testing.assert_array_equal(samples, whole[: len(samples)])
        (note,) = stream.notes
        assert "a.flac" in note
        assert "damaged" in note
        assert "lost sync" in note


def test_a_flac_with_a_damaged_middle_is_heard_behind_it(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [media] is not installed")
    path = made(tmp_path, "flac", 40.0)
    whole = load_audio(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    samples, stream = heard(path)
    assert len(samples) > len(whole) - 3 * 16_000
    np.testing.assert_array_equal(samples[-80_000:], whole[-80_000:])
    assert "damaged" in stream.notes[0]


@pytest.mark.parametrize("count", [1, 3, 2**32 - 16])
def test_the_frame_count_of_an_mp3_is_not_believed(count: int, tmp_path: Path) -> None:
    if count < 10:
        pytest.importorskip("av", reason="the extra [media] is not installed")
    path = made(tmp_path, "mp3")
    content = bytearray(path.read_bytes())
    whole = load_audio(path)
    place = max(content.find(b"Xing"), content.find(b"Info"))
    assert place > 0
    content[place + 8 : place + 12] = count.to_bytes(4, "big")
    path.write_bytes(content)
    samples, stream = heard(path)
    assert abs(len(samples) - len(whole)) < 3 * 1152
    assert stream.notes or stream.decoder == "ffmpeg"


def test_two_mp3_in_a_row_are_more_than_one(tmp_path: Path) -> None:
    content = made(tmp_path, "mp3").read_bytes()
    assert mpeg.goes_on(io.BytesIO(content), 0)
    tagged = content + b"TAG" + bytes(125) + b"APETAGEX" + bytes(3000)
    assert not mpeg.goes_on(io.BytesIO(tagged), len(content))
    path = tmp_path / "tagged.mp3"
    path.write_bytes(tagged)
    samples, stream = heard(path)
    np.testing.assert_array_equal(samples, load_audio(tmp_path / "a.mp3"))
    assert stream.decoder == "libsndfile"


def frames_of(content: bytes) -> list[int]:
    """Where the frames of an mp3 begin."""
    at = mpeg.behind_tags(io.BytesIO(content), 0)
    found = []
    while size := mpeg.frame_bytes(content[at : at + 4]):
        found.append(at)
        at += size
    return found


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2), (44_100, 1), (48_000, 2)])
@pytest.mark.parametrize("installed", [True, False])
def test_of_a_cut_mp3_a_frame_is_heard_whose_sound_is_there(
    rate: int, channels: int, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "av", None)
    out = io.BytesIO()
    sound = np.stack([speech_like(4.0, rate=rate)] * channels, axis=1)
    soundfile.write(out, sound, rate, format="MP3", bitrate_mode="CONSTANT")
    content = out.getvalue()
    whole = heard(content, rate)[0]
    starts, longer = frames_of(content), set()
    for number in (40, 41, 42):
        begin, end = starts[number : number + 2]
        at_frame = heard(content[:begin], rate)[0]
        for cut in (*range(begin + 4, end, (end - begin) // 5), end - 1):
            samples, stream = heard(content[:cut], rate)
            np.testing.assert_allclose(samples, whole[: len(samples)], rtol=0, atol=1e-5)
            told = mpeg.is_told(content[begin:cut])
            assert len(samples) - len(at_frame) == (1152 if rate > 24_000 else 576) * told
            assert "cut" in stream.notes[0] or "lacks" in stream.notes[0]
            if told and installed:
                by_all = by_ffmpeg(content[:cut])
                np.testing.assert_allclose(samples, by_all, rtol=0, atol=1e-5)
            longer.add(told)
    assert longer == {True, False}


TAG_KINDS = {
    "ID3v2": b"ID3\4\0\0\0\0\1\0" + bytes(range(128)),
    "two ID3v2": 2 * (b"ID3\3\0\0\0\0\0\x10" + b"TIT2 is a title."),
    "ID3v1": b"TAG" + b"a title".ljust(125, b"\0"),
    "APE": b"APETAGEX\xd0\7\0\0\x28\0\0\0".ljust(32, b"\0") + b"Title".ljust(40),
}


@pytest.mark.parametrize("tag", TAG_KINDS)
@pytest.mark.parametrize("kind", ["OGG", "OPUS", "FLAC", "MP3", "WAV", "AIFF", "CAF"])
def test_tags_between_recordings_end_nothing(kind: str, tag: str, no_ffmpeg: None) -> None:
    def part(seed: int, rate: int) -> bytes:
        if kind != "OPUS":
            return noise_of(kind, seed, rate)
        out = io.BytesIO()
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 24_000)
        soundfile.write(out, noise, rate, format="OGG", subtype="OPUS")
        return out.getvalue()

    between, parts = TAG_KINDS[tag], [part(1, 16_000), part(2, 8_000), part(3, 16_000)]
    wanted = np.concatenate([heard(one)[0] for one in parts])
    for joined in (between.join(parts), between.join([*parts, b""])):
        samples, stream = heard(joined)
        np.testing.assert_array_equal(samples, wanted)
        assert stream.notes == ()
    if tag.endswith("ID3v2"):
        samples, stream = heard(between.join([b"", *parts]))
        np.testing.assert_array_equal(samples, wanted)


@pytest.mark.parametrize("tag", [b"", *TAG_KINDS.values()])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp3_that_states_no_length_is_heard_to_its_end(
    rate: int, tag: bytes, no_ffmpeg: None
) -> None:
    out = io.BytesIO()
    # Loud, then silent: by its first frames it is guessed to be shorter than it is.
    loud = np.random.default_rng(0).uniform(-0.9, 0.9, 2 * rate)
    sound = np.concatenate([loud, np.zeros(8 * rate)])
    soundfile.write(out, sound, rate, format="MP3", bitrate_mode="VARIABLE")
    content = out.getvalue()
    first, second = frames_of(content)[:2]
    assert b"Xing" in content[first:second]
    bare = content[second:]
    samples, stream = heard(tag + bare, rate)
    assert stream.decoder == "libsndfile"
    assert len(samples) == len(frames_of(bare)) * (1152 if rate > 24_000 else 576)
    lame = heard(content, rate)[0]  # what a decoder is late by is left out where it is stated
    late = int(np.argmax(np.correlate(samples[: 2 * rate], lame[:rate], "valid")))
    np.testing.assert_allclose(samples[late : late + rate], lame[:rate], rtol=0, atol=1e-5)


def test_a_chain_may_change_its_rate(tmp_path: Path, no_ffmpeg: None) -> None:
    first, second = tmp_path / "1.ogg", tmp_path / "2.ogg"
    soundfile.write(first, speech_like(4.0), 16_000)
    soundfile.write(second, speech_like(4.0, rate=24_000), 24_000)
    samples, stream = heard(first.read_bytes() + second.read_bytes())
    assert len(samples) == 8 * 16_000
    np.testing.assert_array_equal(samples[:64_000], load_audio(first))
    np.testing.assert_array_equal(samples[64_000:], load_audio(second))
    assert stream.decoder == "libsndfile"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_cut_ogg_says_so(subtype: str, tmp_path: Path, no_ffmpeg: None) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, speech_like(6.0), 16_000, subtype=subtype)
    content = path.read_bytes()
    assert heard(path)[1].notes == ()
    assert heard(content + b"TAG" + bytes(125))[1].notes == ()
    for end in (len(content) // 2, len(content) - 5):
        assert "ends before its last page" in heard(content[:end])[1].notes[0]
    assert "pages break off" in heard(content + b"rubbish" * 9)[1].notes[0]


def encoded(
    path: Path, codec: str, rate: int = 16_000, tracks: int = 1, first_s: float = 4.0
) -> NDArray[np.float32]:
    """A file that PyAV writes, whose first track may be shorter, and the sound that went in."""
    av = pytest.importorskip("av", reason="the extra [media] is not installed")
    sound = speech_like(4.0, rate=rate)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=rate) for _ in range(tracks)]
        for stream in streams:
            stream.layout, stream.bit_rate = "mono", 96_000
        for stream in streams:
            if not stream.codec_context.is_open:
                stream.codec_context.open()
            size = stream.codec_context.frame_size or 1024
            resampler = av.AudioResampler(stream.format, "mono", rate, size)
            given = sound[: round(first_s * rate)] if stream is streams[0] else sound
            frame = av.AudioFrame.from_ndarray(given[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    return sound


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_a_cut_mp2_says_so(rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp2"
    encoded(path, "mp2", rate)
    monkeypatch.setitem(sys.modules, "av", None)
    content = path.read_bytes()
    whole, stream = heard(path)
    assert stream.notes == ()
    for lacks in (1, 100):
        path.write_bytes(content[:-lacks])
        part, stream = heard(path)
        assert len(stream.notes) == 1
        assert f"its last frame lacks {lacks} byte" in stream.notes[0]
        assert np.abs(part[:-2000] - whole[: len(part) - 2000]).max() < 1e-6
        assert abs(len(whole) - len(part) - 1152 / rate * 16_000) < 2


@pytest.mark.parametrize(
    ("ending", "codec", "rate"),
    [("m4a", "aac", 16_000), ("mp4", "aac", 44_100), ("aac", "aac", 16_000),
     ("webm", "libopus", 48_000), ("mka", "alac", 16_000), ("wma", "wmav2", 44_100),
     ("ac3", "ac3", 48_000)],
)  # fmt: skip
def test_what_phones_and_browsers_record(
    ending: str, codec: str, rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{ending}"
    sound = load_audio(encoded(path, codec, rate), rate)
    samples, stream = heard(path)
    assert stream.decoder == "ffmpeg"
    assert stream.notes == ()
    assert len(samples) / 16_000 == pytest.approx(4.0, abs=0.15)
    # The place of the best match: some containers do not state their codec's delay.
    size = len(sound) + len(samples)
    spectrum = np.conj(np.fft.rfft(sound, size)) * np.fft.rfft(samples, size)
    lag = int(np.fft.irfft(spectrum, size).argmax())
    lag -= size if lag > size // 2 else 0
    assert abs(lag) < 2100
    pair = samples[max(0, lag) :][:48_000], sound[max(0, -lag) :][:48_000]
    assert np.corrcoef(*pair)[0, 1] > 0.95
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"pip install 'speechprune-ort\[media\]'"):
        load_audio(path)


@pytest.mark.parametrize("layout", ["5.1", "7.1"])
def test_of_eight_channels_each_is_heard(layout: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="the extra [media] is not installed")
    path, number = tmp_path / "a.wv", {"5.1": 6, "7.1": 8}[layout]
    levels = np.arange(1, number + 1, dtype=np.float32) / 16
    with av.open(str(path), "w", format="wv") as container:
        stream = container.add_stream("wavpack", rate=16_000)
        stream.layout, stream.format = layout, "fltp"
        frame = av.AudioFrame(format="fltp", layout=layout, samples=16_000)
        frame.sample_rate = 16_000
        for plane, level in zip(frame.planes, levels, strict=False):
            plane.update(np.full(16_000, level, np.float32))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for channel, level in enumerate(levels):
        samples, found = heard(path, channel=channel)
        assert found.decoder == "ffmpeg"
        np.testing.assert_allclose(samples, level, atol=1e-4)
        assert len(samples) == 16_000


def test_a_cut_m4a_and_further_tracks_are_noted(tmp_path: Path) -> None:
    for name, codec in (
        ("a.mka", "aac"),
        ("a.m4a", "aac"),
        ("a.wma", "wmav2"),
        ("a.ogg", "libopus"),
    ):
        path, rate = tmp_path / name, 44_100 if codec == "wmav2" else 48_000
        encoded(path, codec, rate, tracks=2, first_s=1.0)
        samples, stream = heard(path)
        assert 0.9 < len(samples) / 16_000 < 1.2, name
        assert stream.notes == (f"{path} holds 2 sound tracks: only the first was used.",)
        assert stream.decoder == ("libsndfile" if codec == "libopus" else "ffmpeg")
    encoded(tmp_path / "b.mka", "aac")
    content = (tmp_path / "b.mka").read_bytes()
    samples, stream = heard(content[: len(content) // 2])
    assert 0.5 < len(samples) / 16_000 < 3.5
    assert stream.notes
    encoded(tmp_path / "c.m4a", "aac")  # its index stands at its end
    content = (tmp_path / "c.m4a").read_bytes()
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(content[: len(content) // 2])


def test_playlists_and_scripts_open_nothing(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [media] is not installed")
    secret = made(tmp_path, "flac")
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
    ):
        path = tmp_path / "list.m3u8"
        path.write_text(text)
        with pytest.raises(AudioError, match="cannot be decoded"):
            load_audio(path)


# Streams


def fifo(folder: Path, content: bytes) -> Iterator[Any]:
    path = folder / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(content))
    writer.start()
    yield path
    writer.join(10)
    assert not writer.is_alive()


def pipe(folder: Path, content: bytes) -> Iterator[Any]:
    """A descriptor's path, as process substitution and /dev/stdin give it."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    yield f"/proc/self/fd/{reading}"
    os.close(reading)
    writer.join(10)
    assert not writer.is_alive()


def sockets(folder: Path, content: bytes) -> Iterator[Any]:
    reading, writing = socket.socketpair()

    def write() -> None:
        with writing:
            writing.sendall(content)

    writer = threading.Thread(target=write)
    writer.start()
    with reading, reading.makefile("rb") as file:
        yield file
    writer.join(10)
    assert not writer.is_alive()


class _Stream:
    """Nothing but ``read``, a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 777))


def bare(folder: Path, content: bytes) -> Iterator[Any]:
    yield _Stream(content)


@pytest.mark.parametrize("fails", [False, True])
def test_what_libsndfile_leaves_of_an_opus_file_is_heard_once(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    path = tmp_path / "long.opus"
    soundfile.write(path, speech_like(60.0), 16_000, format="OGG", subtype="OPUS")
    whole = load_audio(path)
    read, frames = soundfile.SoundFile.read, [0]

    def stop_early(self: Any, count: int, **options: Any) -> Any:
        if frames[0] >= 6 * 16_000:
            if fails:
                raise RuntimeError("Internal error")
            return np.zeros((0, 1), np.float32)
        block = read(self, min(count, 16_000), **options)
        frames[0] += len(block)
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", stop_early)
    stream = AudioStream(path)
    heard = np.concatenate(list(stream))
    # FFmpeg decodes Opus at 48 kHz, whatever the header says: seconds are left out, not frames.
    assert abs(len(heard) - len(whole)) < 16_000 * 0.1
    for start in (2, 8, 30, 55):
        part = slice(16_000 * start, 16_000 * (start + 2))
        assert np.corrcoef(heard[part], whole[part])[0, 1] > 0.95
    assert any("what could be decoded was used" in note for note in stream.notes)


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("kind", [fifo, pipe, sockets, bare])
def test_streams_are_read_as_files_are(
    kind: Callable[[Path, bytes], Iterator[Any]], ending: str, tmp_path: Path
) -> None:
    path = made(tmp_path, ending)
    wanted = load_audio(path)
    for source in kind(tmp_path, path.read_bytes()):
        np.testing.assert_array_equal(load_audio(source), wanted)


def test_a_pipe_is_not_touched_to_learn_its_length(tmp_path: Path) -> None:
    content = made(tmp_path, "wav").read_bytes()
    assert audio_seconds(tmp_path / "a.wav") == 6.0
    for source in fifo(tmp_path, content):
        assert audio_seconds(source) is None
        assert len(load_audio(source)) == 6 * 16_000


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    monkeypatch.setattr(streams, "UNWRITTEN_S", 0.1)
    with pytest.raises(AudioError, match="a pipe that nobody writes to"):
        load_audio(path)
    content = made(tmp_path, "wav").read_bytes()
    asked = threading.Event()

    def write() -> None:
        with path.open("wb") as pipe:
            assert asked.wait(10)
            pipe.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    # It is not opened to be fingerprinted, which would end its writer; a silent one is waited for.
    assert content_of(str(path)) is None
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # so that the writer always has one
    with Limits(deadline=0.3).held(), pytest.raises(DeadlineError):
        load_audio(path)
    asked.set()
    assert len(load_audio(path)) == 6 * 16_000
    writer.join(10)
    os.close(reader)


def test_streams_end_somewhere(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="begins with zeros"):
        load_audio("/dev/zero")
    with pytest.raises(AudioError, match="max_stream_mb"):
        heard("/dev/urandom", max_stream_mb=0.2)
    with pytest.raises(AudioError, match="empty file"):
        load_audio(_Stream(b""))

    class Broken:
        def read(self, _size: int) -> bytes:
            raise OSError("the line is dead")

    with pytest.raises(AudioError, match="the line is dead"):
        load_audio(Broken())


@pytest.mark.parametrize("error", [OSError, KeyError, RuntimeError])
@pytest.mark.parametrize("at", [0, 50_000])
@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("ending", ["wav", "mp3"])
def test_a_file_object_that_fails_on_the_way_is_an_error_not_an_end(
    ending: str, seekable: bool, at: int, error: type[Exception]
) -> None:
    class Failing(io.BytesIO):
        def readinto(self, _buffer: Any) -> int:
            raise AssertionError("libsndfile would take this for the end")

        def seekable(self) -> bool:
            return seekable

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= at:
                raise error("the disk is gone")
            return super().read(size)

    content = wav()[0] if ending == "wav" else b"\xff\xfb\x90\x64" + bytes(100_000)
    with pytest.raises(AudioError, match=r"^The file object cannot be read \('?the disk is gone"):
        load_audio(Failing(content))


@pytest.mark.parametrize("name", ["seek", "tell", "seekable"])
def test_a_file_object_that_cannot_be_sought_in_after_all_is_an_error(name: str) -> None:
    def fails(*_: object) -> Any:
        raise NotImplementedError("no")

    file = type("File", (io.BytesIO,), {name: fails})(wav()[0])
    with pytest.raises(AudioError, match=r"cannot be read \(no\)"):
        load_audio(file)


@pytest.mark.parametrize("given", [5, ValueError("no")])
def test_a_path_that_is_none_after_all_is_a_sentence(given: Any) -> None:
    class Odd(os.PathLike[str]):
        def __fspath__(self) -> str:
            if isinstance(given, Exception):
                raise given
            return given  # type: ignore[no-any-return]

    with pytest.raises(AudioError, match="A Odd is not a path"):
        load_audio(Odd())
    with pytest.raises(OptionError, match="OUT must be a path"):
        check_path(Odd(), "OUT", OptionError)


def test_a_read_that_takes_no_size_is_a_sentence() -> None:
    class Bare:
        def read(self) -> bytes:
            return wav()[0]

    with pytest.raises(AudioError, match="cannot be read"):
        load_audio(Bare())


# Limits


@pytest.mark.parametrize(
    ("limit", "cure"),
    [({"max_seconds": 5.9}, "--max-seconds"), ({"max_channels": 1}, "--max-channels"),
     ({"max_decoded_mb": 0.7}, "--max-decoded-mb")],
)  # fmt: skip
def test_limits_name_themselves(limit: dict[str, Any], cure: str, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.stack([speech_like(6.0)] * 2, axis=1), 16_000)
    assert len(heard(path)[0]) == 6 * 16_000
    with pytest.raises(AudioError, match=cure) as caught:
        heard(path, **limit)
    assert next(iter(limit)) in str(caught.value)
    assert "a.flac" in str(caught.value)


@pytest.mark.parametrize("rate", [1, 3_999, 768_001, 2**31 - 1])
def test_rates_that_no_sound_has(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech_like(0.5), rate)
    with pytest.raises(AudioError, match="sampling rate"):
        load_audio(path)
    with pytest.raises(AudioError, match="sampling rate"):
        load_audio(speech_like(0.5), rate)


def test_a_small_file_of_hours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for _ in range(5):
            file.write(np.zeros(16_000 * 1000, np.int16))
    assert path.stat().st_size < 1e6
    assert AudioOptions().max_seconds == 12 * 3600
    with pytest.raises(AudioError, match="longer than 3600 seconds"):
        for _ in AudioStream(path, options=AudioOptions(max_seconds=3600)):
            pass


def test_names_are_any_bytes_and_endings_are_not_believed(tmp_path: Path) -> None:
    content = made(tmp_path, "flac").read_bytes()
    wanted = load_audio(content)
    for name in (b"caf\xe9.flac", b"a.raw", b"a.mp3", b"-", b"a.wav\n"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_bytes(content)
        np.testing.assert_array_equal(load_audio(path), wanted)
    with pytest.raises(AudioError, match="File name too long"):
        load_audio("a" * 300 + ".wav")
    with pytest.raises(AudioError, match="download it"):
        load_audio("https://example.org/a.wav")
    with pytest.raises(AudioError, match="null byte"):
        load_audio("a\0b.wav")
    with pytest.raises(AudioError, match="path of the recording is empty"):
        load_audio("")


def test_what_cannot_be_decoded_has_the_librarys_reason(tmp_path: Path, no_ffmpeg: None) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(16))
    with pytest.raises(AudioError, match=r"cannot be decoded as audio by libsndfile \(\w+"):
        load_audio(path)


KINDS = ("WAV", "AIFF", "CAF", "AU", "W64", "FLAC", "OGG", "MP3")


def noise_of(kind: str, seed: int, rate: int = 16_000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (24_000, channels))
    soundfile.write(out, noise, rate, format=kind)
    return out.getvalue()


@pytest.mark.parametrize(("first", "second"), list(permutations(KINDS, 2)))
def test_files_of_two_kinds_after_each_other_are_heard_to_their_end(
    first: str, second: str, no_ffmpeg: None
) -> None:
    parts = [noise_of(first, 1), noise_of(second, 2), noise_of(first, 3)]
    samples, stream = heard(b"".join(parts))
    np.testing.assert_array_equal(samples, np.concatenate([heard(part)[0] for part in parts]))
    assert stream.notes == ()


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2), (44_100, 2)])
def test_files_of_other_rates_and_channels_after_each_other_keep_theirs(
    kind: str, rate: int, channels: int, no_ffmpeg: None
) -> None:
    parts = [noise_of(kind, 1), noise_of(kind, 2, rate, channels), noise_of(kind, 3)]
    samples, stream = heard(b"".join(parts))
    np.testing.assert_array_equal(samples, np.concatenate([heard(part)[0] for part in parts]))
    assert stream.notes == ()


def test_two_flacs_are_two_and_their_pictures_are_none(no_ffmpeg: None) -> None:
    first, second = noise_of("FLAC", 1), noise_of("FLAC", 2)
    # A block of metadata that holds a whole recording: part of the first, and no sound.
    block = b"\2" + (len(second) + 4).to_bytes(3, "big") + b"test" + second
    wanted = np.concatenate([heard(first)[0], heard(second)[0]])
    for joined in (first + second, first[:42] + block + first[42:] + second):
        samples, stream = heard(joined)
        np.testing.assert_array_equal(samples, wanted)
        assert stream.notes == ()


# Damage in the middle: bytes that are other ones, zeros, or gone.
DAMAGES = {
    "other": lambda content, at, size: content[:at] + b"\x55" * size + content[at + size :],
    "zeros": lambda content, at, size: content[:at] + bytes(size) + content[at + size :],
    "gone": lambda content, at, size: content[:at] + content[at + size :],
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("size", [7, 300, 5000])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_a_damaged_middle_says_so(
    kind: str, size: int, subtype: str, no_ffmpeg: None
) -> None:
    out = io.BytesIO()
    soundfile.write(out, speech_like(20.0), 16_000, format="OGG", subtype=subtype)
    content = out.getvalue()
    whole, stream = heard(content)
    assert stream.notes == ()
    samples, stream = heard(DAMAGES[kind](content, len(content) // 2, size))
    assert "is damaged" in stream.notes[0]
    assert "page" in stream.notes[0]
    np.testing.assert_array_equal(samples[:32_000], whole[:32_000])
    np.testing.assert_allclose(samples[-32_000:], whole[-32_000:], atol=0.02)


def test_an_ogg_that_lacks_a_page_says_so(no_ffmpeg: None) -> None:
    out = io.BytesIO()
    soundfile.write(out, speech_like(20.0), 16_000, format="OGG")
    content = out.getvalue()
    places = [at for at in range(len(content)) if content[at : at + 4] == b"OggS"]
    middle = len(places) // 2
    lacking = content[: places[middle]] + content[places[middle + 1] :]
    assert "pages are missing" in heard(lacking)[1].notes[0]


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("size", [400, 5000])
@pytest.mark.parametrize("installed", [True, False])
def test_an_mp3_with_a_damaged_middle_says_so_and_is_heard_behind_it(
    kind: str,
    size: int,
    installed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "av", None)
    content = made(tmp_path, "mp3", 20.0).read_bytes()
    whole, stream = heard(content)
    assert stream.notes == ()
    samples, stream = heard(DAMAGES[kind](content, len(content) // 2, size))
    assert "are not frames of an mp3" in stream.notes[0]
    # What was damaged is missing, and what the frames around it lent each other.
    assert 0 < len(whole) - len(samples) < (0.1 + 2 * size / len(content) * 20) * 16_000
    # The last seconds, wherever the padding at the end puts them.
    wanted, end = whole[-32_000:-4_000], len(samples)
    shifts = range(end - 34_000, end - 30_000)
    assert min(float(np.abs(samples[at : at + 28_000] - wanted).max()) for at in shifts) < 0.002
    assert capfd.readouterr().err == ""


def test_a_decoder_that_complains_is_heard_and_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(made(tmp_path, "mp3", 20.0).read_bytes())
    found = mpeg.run(io.BytesIO(content), 0)
    assert found is not None
    for place in range(len(content) // 2, len(content) - 400, 211):
        if content[place] != 0xFF:
            content[place] ^= 0x7F
    _, stream = heard(bytes(content))
    (note, *_) = stream.notes
    assert "is damaged" in note
    assert capfd.readouterr().err == ""


def test_what_others_print_while_a_decoder_works_is_passed_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with overheard() as said:
        os.write(2, b"ours\nNote: Skipped 9 bytes in input.\n")
        os.write(2, b"[src/libmpg123/layer3.c:f():1] error: part2_3_length\nours, too\n")
    assert said == ["Skipped 9 bytes in input", "part2_3_length"]
    assert capfd.readouterr().err == "ours\nours, too\n"


def test_files_of_many_kinds_after_each_other_are_refused() -> None:
    pair = noise_of("WAV", 1) + noise_of("AU", 2)
    with pytest.raises(AudioError, match="one by one"):
        heard(pair * 40)
