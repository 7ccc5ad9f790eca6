"""Saved recordings: what was written comes back, and whatever else is there is one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from speechprune_ort import RecordingError
from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds, EmbedsBuilder, HostEmbeds
from speechprune_ort.runtime.hearing.recording_file import UNHASHED, About, load_embeds, save_embeds
from speechprune_ort.runtime.ort.device import Device

HIDDEN, DIGEST = 8, "d" * 64
ROWS = np.random.default_rng(0).standard_normal((5000, HIDDEN)).astype(np.float32)
ATTENTION = np.linspace(0, 1, len(ROWS), dtype=np.float32)


HEARD = About(200.0, 30.0, "libsndfile+ffmpeg", ("a.mp3 is damaged: it was heard.", "Käse."))


def load(
    path: Path, digest: str = DIGEST, dtype: Any = np.float32, budget: int = 1 << 20
) -> tuple[AudioEmbeds, About, NDArray[np.float32] | None]:
    return load_embeds(path, digest, HIDDEN, np.dtype(dtype), Device("cpu"), budget)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.recording"
    save_embeds(path, HostEmbeds(ROWS), DIGEST, HEARD, ATTENTION)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("attention", [None, ATTENTION])
def test_what_is_saved_comes_back(dtype: Any, attention: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.recording"
    rows = ROWS.astype(dtype)
    save_embeds(path, HostEmbeds(rows), DIGEST, HEARD, attention)
    for budget in (1 << 20, 1):  # in memory, and in a temporary file
        embeds, heard, found = load(path, dtype=dtype, budget=budget)
        np.testing.assert_array_equal(embeds.host, rows)
        assert heard == HEARD
        assert (found is None) == (attention is None)
        if attention is not None:
            np.testing.assert_array_equal(found, attention)
    # The library that knows the format reads it, too.
    np.testing.assert_array_equal(load_file(path)["embeds"], rows)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_names_in_notes_cannot_command_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.recording"
    given = About(1.0, 1.0, notes=("\x1b[2Jcaf\udce9\n.wav is silent.",))
    save_embeds(path, HostEmbeds(ROWS), DIGEST, given)
    assert load(path)[1].notes == (r"\x1b[2Jcaf\udce9\n.wav is silent.",)


def test_every_changed_byte_is_found(saved: Path) -> None:
    whole = saved.read_bytes()
    places = [*range(0, 500, 7), *range(500, len(whole), 9973), len(whole) - 1]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1
        saved.write_bytes(bytes(content))
        with pytest.raises(RecordingError, match="listen to the recording again") as caught:
            load(saved)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 300, 1000, -1])
def test_a_truncated_file_is_one_sentence(size: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(RecordingError, match="damaged"):
        load(saved)


def test_a_longer_file_is_one_sentence(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(RecordingError, match="damaged"):
        load(saved)


def forged(path: Path, change: Callable[[dict[str, Any]], object], data: bytes | None) -> None:
    """Change a header and make its hash right again."""
    whole = path.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:size])
    change(header)
    header["__metadata__"]["sha256"] = UNHASHED
    text = json.dumps(header).encode()
    begin = len(text).to_bytes(8, "little") + text
    rest = whole[size:] if data is None else data
    digest = hashlib.sha256(begin + rest).hexdigest().encode()
    path.write_bytes(begin.replace(UNHASHED.encode(), digest) + rest)


def about(**entries: str) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["__metadata__"].update(entries)


def shape(rows: int, hidden: int) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["embeds"].update(shape=[rows, hidden])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (about(), None),
        (about(seconds="nan"), "damaged"),
        (about(seconds="-1", seconds_heard="-1"), "damaged"),
        (about(seconds_heard="inf"), "damaged"),
        (about(seconds_heard="300"), "300.0 of 200.0 seconds"),
        (about(seconds="1e400"), "damaged"),
        (about(seconds="long"), "damaged"),
        (about(decoder="x" * 101), "its decoder is not a name"),
        (about(decoder="\x1b[2J"), "its decoder is not a name"),
        (about(notes="no list"), "damaged"),
        (about(notes='{"a": 1}'), "its notes are not a list"),
        (about(notes='["\\u001b[2J"]'), "its notes are not a list"),
        (about(notes="[1]"), "its notes are not a list"),
        (about(notes="[" * 20_000), "damaged"),
        (about(bundle="e" * 64), "another bundle"),
        (about(format="speechprune-ort recording 3"), "its format is"),
        (lambda header: header["__metadata__"].pop("seconds"), "damaged"),
        (lambda header: header.update(other=header.pop("attention")), "it holds"),
        (shape(2500, 16), "its embeddings are"),
        (shape(10**9, HIDDEN), "damaged"),
        (lambda header: header["embeds"].update(dtype="I32"), "its embeddings are"),
        (lambda header: header["embeds"].update(data_offsets=[0, 8]), "damaged"),
        (lambda header: header["attention"].update(shape=[2500, 2]), "its attention is"),
    ],
)
def test_a_forged_header_is_one_sentence(
    change: Callable[[dict[str, Any]], object], word: str | None, saved: Path
) -> None:
    forged(saved, change, None)
    if word is None:
        load(saved)
        return
    with pytest.raises(RecordingError, match=word) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", [0, len(ROWS) * HIDDEN])
def test_numbers_that_are_none_are_refused(where: int, saved: Path) -> None:
    values = np.concatenate([ROWS.ravel(), ATTENTION])
    values[where] = np.nan
    forged(saved, about(), values.tobytes())
    with pytest.raises(RecordingError, match="NaN or infinity"):
        load(saved)


@pytest.mark.parametrize(
    "header",
    [b"[" * 50_000, b"{}", b'{"__metadata__": 1}', b"\xff" * 20, b" " * 60_000, b'{"a":' * 9000],
    ids=lambda header: str(header[:8]),
)
def test_a_damaged_header_is_one_sentence(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(RecordingError, match="damaged") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_recordings_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as stream:
        stream.write((1 << 62).to_bytes(8, "little"))
        stream.truncate(1 << 40)
    with pytest.raises(RecordingError, match="not begin with a header"):
        load(path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/zero")):
        with pytest.raises(RecordingError, match="not a regular file"):
            load(path)
    with pytest.raises(RecordingError, match="check the path"):
        load(tmp_path / "gone")
    for path in (tmp_path / ("x" * 300), tmp_path / "huge" / "x"):  # what no system opens
        with pytest.raises(RecordingError, match=r"x is not a recording .*\(\[Errno"):
            load(path)


def test_memory_that_runs_out_is_one_sentence(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(EmbedsBuilder, "append", fail)
    with pytest.raises(RecordingError, match=r"not enough memory for .*lower the memory"):
        load(saved)


def test_a_recording_of_the_first_format_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "old"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("about.json", "{}")
    with pytest.raises(RecordingError, match=r"earlier version.*listen to the recording again"):
        load(path)


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    class Failing(HostEmbeds):
        def blocks(self) -> Any:
            yield self.host[:10]
            raise KeyboardInterrupt

    path = tmp_path / "a.recording"
    save_embeds(path, HostEmbeds(ROWS), DIGEST, About(1.0, 1.0))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        save_embeds(path, Failing(ROWS), DIGEST, About(1.0, 1.0))
    with pytest.raises(RecordingError, match="cannot be written"):
        save_embeds(tmp_path / "no" / "folder", HostEmbeds(ROWS), DIGEST, About(1.0, 1.0))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
