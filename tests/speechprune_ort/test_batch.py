"""``batch``: what it takes, what it refuses, and that nothing of it is lost or answered wrongly."""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
import typer
from command import run
from numpy.typing import NDArray

from speechprune_ort import (
    Answer,
    AudioError,
    AudioOptions,
    Cancel,
    CancelledError,
    DataError,
    DeadlineError,
    GenerationOptions,
    OptionError,
    PruningOptions,
    Recording,
    SpeechLLM,
    SpeechPruneError,
)
from speechprune_ort.answer_record import line_schema
from speechprune_ort.answer_stream import NO_MEMORY
from speechprune_ort.batch import BatchTask, Outcome, read_requests, run_batch
from speechprune_ort.cli.ask import ask
from speechprune_ort.cli.batch import batch
from speechprune_ort.errors import OutputError
from speechprune_ort.evaluation.calibration import Calibration
from speechprune_ort.methods import METHODS, Request, Selection, load_plugins, method, sources_of
from speechprune_ort.pool import in_order

TONE = np.sin(np.arange(32_000, dtype=np.float32)) / 9


@pytest.fixture
def folder(tmp_path: Path, tone: NDArray[np.float32]) -> Path:
    """Two recordings, of 2 and 3 s, and five questions about them; a third is missing."""
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", tone[: (2 + number) * 16_000], 16_000)
    audio = ("0.wav", "0.wav", "1.wav", "gone.wav", "1.wav")
    lines = [{"audio": name, "question": f"Who was {n}?"} for n, name in enumerate(audio)]
    write(tmp_path / "in.jsonl", lines)
    return tmp_path


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def go(
    bundle: Path, folder: Path, out: str = "out.jsonl", requests: str = "in.jsonl", **changes: Any
) -> Outcome:
    """Run the batch of a folder in this process."""
    path = folder / requests
    options: dict[str, Any] = {
        "pruning": PruningOptions(),
        "generation": GenerationOptions(max_new_tokens=4),
        **changes,
    }
    task = BatchTask(bundle, tuple(read_requests(path)), device="cpu", **options)
    return run_batch(task, folder / out, path)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class AtOnce(threading.Timer):
    """A deadline that passes as it is given, however busy the machine is."""

    def start(self) -> None:
        self.function(*self.args)


class CutError(Exception):
    """Ends a run after some lines, as a kill would."""


def cut_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    line = BatchTask._line

    def counted(self: BatchTask, *arguments: Any) -> dict[str, Any]:
        nonlocal seen
        seen += 1
        if seen > count:
            raise CutError
        return line(self, *arguments)

    monkeypatch.setattr(BatchTask, "_line", counted)


def test_each_line_has_its_answer_or_its_error_in_order(bundle: Path, folder: Path) -> None:
    assert go(bundle, folder) == Outcome(answered=4, failed=1, new=5)
    lines = lines_of(folder / "out.jsonl")
    assert [line["id"] for line in lines] == ["1", "2", "3", "4", "5"]
    assert [line["id"] for line in lines if "error" in line] == ["4"]
    assert "gone.wav" in lines[3]["error"]
    model = SpeechLLM(bundle, "cpu")
    alone = model.ask(folder / "1.wav", "Who was 4?", max_new_tokens=4)
    assert lines[4]["text"] == alone.text
    assert lines[4]["merged_spans"] == alone.to_dict()["pruning"]["merged_spans"] != []
    assert not (folder / "out.jsonl.partial").exists()
    # The same command tries again what failed, and only that.
    soundfile.write(folder / "gone.wav", TONE, 16_000)
    assert go(bundle, folder) == Outcome(answered=5, failed=0, new=1)
    whole = (folder / "out.jsonl").read_bytes()
    stamp = (folder / "out.jsonl").stat().st_mtime_ns
    assert go(bundle, folder) == Outcome(answered=5, failed=0, new=0)
    assert ((folder / "out.jsonl").read_bytes(), (folder / "out.jsonl").stat().st_mtime_ns) == (
        whole,
        stamp,
    )


BAD: list[tuple[bytes, str]] = [
    (b"nonsense", "is not a JSON object"),
    (b"[1]", "it is list, not an object"),
    (b"null", "it is None, not an object"),
    (b"5", "it is 5, not an object"),
    (b"NaN", "NaN is not a JSON number"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"audio": "a.wav", "question": "caf\xe9"}', "not UTF-8"),
    (b'{"audio": "0.wav"}', "no 'question'"),
    (b'{"question": "Who?"}', "no 'audio'"),
    (b'{"audio": "0.wav", "question": "Who? \\ud83d"}', "'question' holds half"),
    (b'{"audio": "0.wav", "question": null}', "'question' must be text, not None"),
    (b'{"audio": "0.wav", "question": 5}', "'question' must be text, not 5"),
    (b'{"audio": "0.wav", "question": true}', "'question' must be text"),
    (b'{"audio": "0.wav", "question": ["Who?"]}', "'question' must be text, not list"),
    (b'{"audio": "0.wav", "question": {}}', "'question' must be text, not dict"),
    (b'{"audio": "0.wav", "question": 1e999}', "'question' must be text"),
    (b'{"audio": "0.wav", "question": Infinity}', "not a JSON number"),
    (b'{"audio": null, "question": "Who?"}', "'audio' must be a path"),
    (b'{"audio": 5, "question": "Who?"}', "'audio' must be a path"),
    (b'{"audio": ["a"], "question": "Who?"}', "'audio' must be a path"),
    (b'{"audio": "", "question": "Who?"}', "'audio' is empty"),
    (b'{"audio": "a\\u0000b", "question": "Who?"}', "NUL"),
    (b'{"audio": "a\\ud83d", "question": "Who?"}', "'audio' holds half"),
    (b'{"audio": "' + b"a" * 256 + b'", "question": "Who?"}', "too long"),
    (b'{"audio": "0.wav", "question": "Who?", "id": [1]}', "'id' must be text"),
    (b'{"audio": "0.wav", "question": "Who?", "id": 1.5}', "'id' must be text"),
    (b'{"audio": "0.wav", "question": "Who?", "id": true}', "'id' must be text"),
    (b'{"audio": "0.wav", "question": "Who?", "id": "\\udc00"}', "'id' holds half"),
    (b'{"audio": "0.wav", "question": "Who?", "id": "x"}', "the id 'x' of line 1"),
    (b'{"audio": "0.wav", "audio": "1.wav", "question": "Who?"}', "'audio' more than once"),
    (b'{"audio": "0.wav", "question": "Who?", "id": ' + b"9" * 5000 + b"}", "integer"),
]


@pytest.mark.parametrize(("raw", "message"), BAD)
def test_a_bad_line_is_an_error_of_its_own(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    good = '{"audio": "0.wav", "question": "Who\u2028is\u0085it?", "id": "x"}'.encode()
    last = b'{"audio": "0.wav", "question": "When?", "id": null}'
    path.write_bytes(b"\r\n".join([b"\xef\xbb\xbf" + good, b"  ", raw, b"\t", last]))
    first, wrong, third = read_requests(path)
    assert (first.name, first.text, first.error) == ("x", "Who\u2028is\u0085it?", "")
    assert (third.name, third.text, third.error) == ("5", "When?", "")
    assert wrong.error.startswith(f"Line 3 of {path}")
    assert message in wrong.error
    assert len(wrong.error) < 500
    path.write_bytes(raw)
    if "of line 1" not in message:
        with pytest.raises(DataError, match=r"^Line 1 of"):
            read_requests(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no request"),
        (b" \n\n\t\r\n", "holds no request"),
        ('{"audio": "a"}'.encode("utf-16"), "is UTF-16"),
        (b"\0" * 100_000, "Line 1"),
    ],
)
def test_a_file_without_a_request_is_one_sentence(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_requests(path)
    assert len(str(raised.value)) < 500
    with pytest.raises(DataError, match="cannot be read"):
        read_requests(tmp_path)


def test_a_long_line_a_pipe_and_a_name_that_is_not_utf_8_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "in.fifo"
    os.mkfifo(pipe)
    content = json.dumps({"audio": "caf\udce9.wav", "question": "x" * 10_000_000}) + "\n"
    thread = threading.Thread(target=pipe.write_text, args=(content,))
    thread.start()
    (request,) = read_requests(pipe)
    thread.join()
    assert len(request.text) == 10_000_000
    assert os.fsencode(request.audio) == b"caf\xe9.wav"  # of a pipe from the working folder
    monkeypatch.setattr("speechprune_ort.text.LONGEST_LINE", 1000)
    path = tmp_path / "in.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"Line 1 .* longer"):
        read_requests(path)


def test_all_that_is_wrong_with_lines_and_recordings_ends_nothing(
    bundle: Path, folder: Path
) -> None:
    (folder / "notes.wav").write_text("no sound")
    (folder / "a.raw").write_bytes(bytes(1000))
    soundfile.write(folder / "good.wav", TONE, 16_000)
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")
    (folder / "good.wav").rename(odd)
    names = ["notes.wav", "a.raw", ".", "in.jsonl", "0.wav/x.wav", "/dev/null"]
    lines: list[Any] = [{"audio": name, "question": "Who?"} for name in names]
    lines += [{"audio": "0.wav", "question": " "}, 5, {"audio": "0.wav", "question": "x" * 99_999}]
    lines += [{"audio": "0.wav", "question": "Who?", "max_new_tokens": 1}]  # of all lines
    lines += [{"audio": "0.wav", "question": "Who?", name: 1} for name in ("language", "samples")]
    lines += [{"audio": "0.wav", "question": "Who?", "speaker": 1}]
    write(folder / "in.jsonl", lines)
    assert go(bundle, folder) == Outcome(answered=1, failed=12, new=8)
    found = lines_of(folder / "out.jsonl")
    assert [line["id"] for line in found] == [str(number) for number in range(1, 14)]
    for line, name in zip(found[9:12], ("max_new_tokens", "language", "samples"), strict=True):
        assert f"'{name}' is an option of the command" in line["error"]
    assert all(line["error"] for line in found[:-1])
    assert "'question' is empty" in found[6]["error"]
    assert found[7]["error"].startswith("Line 8 of ")
    assert found[-1]["text"] is not None


def test_whatever_fails_in_one_line_ends_no_other(
    bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_alone(request: Request) -> Selection:
        if request.tokens > 60:
            raise KeyError("long")
        return Selection(np.arange(request.n_keep))

    method("short-alone", summary="fails on 3 s")(short_alone)
    try:
        go(bundle, folder, "short.jsonl", pruning=PruningOptions("short-alone"))
    finally:
        del METHODS["short-alone"]
    lines = lines_of(folder / "short.jsonl")
    assert ["text" in line for line in lines] == [True, True, False, False, False]
    assert "short-alone" in lines[2]["error"]
    with_evidence, failures = Recording.with_evidence, [MemoryError(), OutputError("No room.")]

    def failing(self: Recording, answer: Answer) -> Answer:
        if failures:
            raise failures.pop()
        return with_evidence(self, answer)

    monkeypatch.setattr(Recording, "with_evidence", failing)
    go(bundle, folder, pruning=PruningOptions("affinity-pooling"), evidence=True)
    lines = lines_of(folder / "out.jsonl")
    assert [line.get("error", "")[:20] for line in lines[:3]] == ["No room.", NO_MEMORY[:20], ""]
    assert "evidence" in lines[4]
    for options, words in (
        ({"evidence": True}, "no passage is alone"),
        ({"samples": 2}, "one answer at a time"),
        ({}, "--cut-after"),
    ):
        with pytest.raises(OptionError, match=words):
            go(bundle, folder, "x", pruning=PruningOptions("fastv"), **options)


def test_the_exit_code_says_whether_a_line_failed(
    bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(requests: str, out: str) -> None:
        batch(
            bundle, folder / requests, folder / out, max_new_tokens=2, device="cpu",
            pruning_rate="auto", stop=["zz"], temperature=0.5, top_p=0.9, long_audio="truncate",
        )  # fmt: skip

    with pytest.raises(typer.Exit) as exit_:
        command("in.jsonl", "out.jsonl")
    assert exit_.value.exit_code == 1
    assert "1 line failed" in capsys.readouterr().err
    write(folder / "good.jsonl", [{"audio": "0.wav", "question": "Who?"}])
    command("good.jsonl", "good.out")
    assert "1 answer in" in capsys.readouterr().err
    write(folder / "bad.jsonl", [5, {}])
    with pytest.raises(DataError, match="Line 1"):
        command("bad.jsonl", "bad.out")
    assert not list(folder.glob("bad.out*"))


OF_ASK_ALONE = {
    "audio": "lines name it", "rest": "lines name it", "asked": "lines ask it",
    "as_json": "lines are JSON", "live": "a file of questions is complete", "every": "as live",
    "explain": "a page shows one recording", "transcript": "of that page",
    "together": "a line has one recording",
}  # fmt: skip


def test_batch_has_every_option_of_ask_that_a_line_can_have() -> None:
    of_ask, of_batch = (inspect.signature(command).parameters for command in (ask, batch))
    assert set(of_ask) - set(of_batch) == set(OF_ASK_ALONE)
    for name in set(of_ask) & set(of_batch):
        assert of_ask[name].default == of_batch[name].default, name


def test_samples_evidence_wording_and_calibration_are_those_of_python(
    bundle: Path, folder: Path
) -> None:
    model = SpeechLLM(bundle, "cpu")
    found = Calibration("speechprune", 3.0, 0.2, model.manifest.digest, "", 1, {})
    (folder / "found.json").write_text(json.dumps(found.to_dict()))
    write(folder / "two.jsonl", lines_of(folder / "in.jsonl")[2:4])
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 1.0, "seed": 7}
    with pytest.raises(typer.Exit):  # of a missing recording
        batch(
            bundle, folder / "two.jsonl", folder / "out.jsonl", device="cpu", samples=2,
            evidence=True, system="Be brief.", calibration=folder / "found.json", **options,
        )  # fmt: skip
    line, failed = lines_of(folder / "out.jsonl")
    recording = model.listen(folder / "1.wav").worded(system="Be brief.")
    wanted = recording.sample("Who was 2?", 2, method="speechprune", candidates=3.0, **options)
    assert [(s["seed"], s["text"]) for s in line["samples"]] == [
        (7 + number, answer.text) for number, answer in enumerate(wanted)
    ]
    assert line["text"] == wanted[0].text
    plain = recording.with_evidence(wanted[0]).to_dict()["evidence"]
    assert line["evidence"] == line["samples"][0]["evidence"] == plain
    for entry in (line, failed):
        jsonschema.validate(entry, line_schema())
    assert "gone.wav" in failed["error"]
    for change in ({"samples": 3}, {"evidence": False}, {"system": "Be long."}):
        given = {"samples": 2, "evidence": True, "system": "Be brief.", **change}
        with pytest.raises(OptionError, match="other options"):
            batch(
                bundle, folder / "two.jsonl", folder / "out.jsonl", device="cpu",
                calibration=folder / "found.json", **given, **options,
            )  # fmt: skip
    with pytest.raises(OptionError, match="samples"):
        go(bundle, folder, "other.jsonl", samples=0)
    with pytest.raises(OptionError, match="leave out --candidates"):
        batch(
            bundle, folder / "two.jsonl", folder / "x", calibration=folder / "found.json",
            candidates=2.0,
        )  # fmt: skip


@pytest.mark.parametrize("lines", ["{}\n", "nonsense\n", ""])
def test_the_command_refuses_what_is_no_list_of_requests(
    lines: str, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(lines, encoding="utf-8")
    result = run("batch", bundle, path, tmp_path / "out.jsonl")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert not list(tmp_path.glob("out*"))


def test_what_was_cut_goes_on_without_loss(
    bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(bundle, folder, "straight.jsonl")
    partial = folder / "out.jsonl.partial"
    cut_after(1, monkeypatch)
    with pytest.raises(CutError):  # within the questions about one recording
        go(bundle, folder)
    monkeypatch.undo()
    assert partial.read_text().count("\n") == 2
    with partial.open("a") as stream:
        stream.write('{"row": "abc", "id": "2", "te')  # a kill in the middle of a line
    assert go(bundle, folder).new == 4
    assert (folder / "out.jsonl").read_bytes() == (folder / "straight.jsonl").read_bytes()
    # Killed between the last two steps: both files are there.
    out = (folder / "out.jsonl").read_bytes()
    soundfile.write(folder / "gone.wav", TONE, 16_000)
    with monkeypatch.context() as patched:
        patched.setattr(
            "speechprune_ort.batch.write_whole", lambda *_: (_ for _ in ()).throw(CutError)
        )
        with pytest.raises(CutError):
            go(bundle, folder)
    assert (folder / "out.jsonl").read_bytes() == out
    assert partial.exists()
    assert go(bundle, folder) == Outcome(answered=5, failed=0, new=0)
    assert not partial.exists()
    # An output that lost its tail is made whole again from what is left of it.
    whole = (folder / "out.jsonl").read_bytes()
    (folder / "out.jsonl").write_bytes(whole[:-30])
    assert go(bundle, folder).new == 1
    assert (folder / "out.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    ["question", "audio", "recording", "method", "rate", "stop", "long_audio", "removed"],
)
def test_answers_of_anything_else_are_refused_and_left_as_they_are(
    change: str,
    bundle: Path,
    folder: Path,
    tone: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go(bundle, folder)
    before = (folder / "out.jsonl").read_bytes()
    lines = lines_of(folder / "in.jsonl")
    options: dict[str, Any] = {}
    if change == "question":
        lines[1]["question"] = "And now?"
    elif change == "audio":
        lines[1]["audio"] = "1.wav"
    elif change == "removed":
        del lines[1]
    elif change == "recording":
        soundfile.write(folder / "0.wav", tone[: 4 * 16_000], 16_000)
    elif change == "method":
        options["pruning"] = PruningOptions(method="crop")
    elif change == "rate":
        options["pruning"] = PruningOptions(pruning_rate=0.5)
    elif change == "stop":
        options["generation"] = GenerationOptions(max_new_tokens=4, stop=("x",))
    else:
        options["long_audio"] = "truncate"
    write(folder / "in.jsonl", lines)
    with pytest.raises(OptionError, match="another question or recording, or of another bundle"):
        go(bundle, folder, **options)
    assert (folder / "out.jsonl").read_bytes() == before
    assert not (folder / "out.jsonl.partial").exists()
    # What is under way is refused likewise, and says what is other where it can.
    (folder / "out.jsonl").rename(folder / "elsewhere")
    partial = folder / "out.jsonl.partial"
    cut_after(1, monkeypatch)
    with pytest.raises(CutError):
        go(bundle, folder, **options)
    began = partial.read_bytes()
    with pytest.raises(OptionError, match="begun with other generation: use the same"):
        go(bundle, folder, **{**options, "generation": GenerationOptions(max_new_tokens=5)})
    assert partial.read_bytes() == began


def test_a_recording_that_differs_in_its_middle_is_another(bundle: Path, folder: Path) -> None:
    sound = bytearray((folder / "0.wav").read_bytes())
    room = b"LIST" + (2 << 20).to_bytes(4, "little") + bytes(2 << 20)
    header, samples = sound[:36], sound[36:]
    (folder / "0.wav").write_bytes(header + room + samples + room)
    write(folder / "in.jsonl", [{"audio": "0.wav", "question": "Who?"}])
    assert go(bundle, folder).new == 1
    samples[10_000:20_000] = bytes(10_000)
    (folder / "0.wav").write_bytes(header + room + samples + room)
    with pytest.raises(OptionError, match="another question or recording"):
        go(bundle, folder)


FIRSTS = """from speechprune_ort.methods import Selection, method
import numpy as np

@method("firsts", summary="the first tokens")
def firsts(request):
    return Selection(np.arange(request.n_keep))
"""


def test_another_code_of_a_plugin_and_other_provider_options_are_another_batch(
    bundle: Path, folder: Path
) -> None:
    path = folder / "firsts.py"
    path.write_text(FIRSTS)
    load_plugins([path])
    try:
        options: dict[str, Any] = {"plugins": (path,), "pruning": PruningOptions("firsts")}
        go(bundle, folder, **options)
        with pytest.raises(OptionError, match="of another bundle or other options"):
            go(bundle, folder, **options, provider_options={"prefer_nhwc": "1"})
        go(bundle, folder, **options)
        path.write_text(FIRSTS.replace("(request.n_keep)", "(request.n_keep) * 1"))
        with pytest.raises(OptionError, match="of another bundle or other options"):
            go(bundle, folder, **options)
    finally:
        del METHODS["firsts"]


def test_the_code_of_a_method_is_known_wherever_it_was_registered(tmp_path: Path) -> None:
    def firsts(request: Request) -> Selection:
        return Selection(np.arange(request.n_keep))

    def others(request: Request) -> Selection:
        return Selection(np.arange(request.n_keep) + 1)

    path = tmp_path / "firsts.py"
    path.write_text(FIRSTS)
    others.__qualname__ = firsts.__qualname__  # the same function, changed
    found = [sources_of([], ["coverage"]), sources_of([path], ["coverage"])]
    try:
        for select, module in ((firsts, __name__), (firsts, "typed"), (others, "typed")):
            select.__module__ = module
            method("firsts", summary="some tokens")(select)
            found.append(sources_of([], ["firsts"]))
    finally:
        del METHODS["firsts"]
    nothing, plugin, module_, typed, changed = found
    assert nothing == []
    assert plugin == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert len(module_) == len(typed) == len(changed) == 1
    assert typed != changed
    path.unlink()
    with pytest.raises(OptionError, match=r"firsts\.py cannot be read"):
        sources_of([path], [])


def test_lines_that_are_added_or_mended_are_all_that_is_answered(
    bundle: Path, folder: Path
) -> None:
    lines = lines_of(folder / "in.jsonl")
    write(folder / "in.jsonl", [*lines[:3], "no request"])
    assert go(bundle, folder) == Outcome(answered=3, failed=1, new=3)
    write(folder / "in.jsonl", [*lines[:3], lines[2] | {"question": "Mended?"}, lines[4]])
    assert go(bundle, folder) == Outcome(answered=5, failed=0, new=2)
    assert [line["question"] for line in lines_of(folder / "out.jsonl")][3] == "Mended?"


def foreign(kind: str, folder: Path) -> Path:
    out, requests = folder / "out.jsonl", folder / "in.jsonl"
    if kind == "requests":
        return requests
    if kind == "link to requests":
        out.symlink_to(requests)
    elif kind == "hard link to requests":
        os.link(requests, out)
    elif kind == "recording":
        return folder / "0.wav"
    elif kind == "folder":
        out.mkdir()
    elif kind == "pipe":
        os.mkfifo(out)
    elif kind == "below a file":
        return requests / "out.jsonl"
    elif kind == "long name":
        return folder / ("x" * 250)
    else:
        out.write_bytes(
            {
                "empty": b"", "text": b"my notes", "lines": b"a\nb\n", "latin": b"caf\xe9\n",
                "list": b"[]\n", "object": b"{}\n", "other results": b'{"id": "1", "text": "x"}\n',
                "deep": b"[" * 100_000 + b"\n", "number": b'{"fingerprint": 5, "id": 1}\n',
            }[kind]
        )  # fmt: skip
    return out


@pytest.mark.parametrize(
    "kind",
    [
        "requests", "link to requests", "hard link to requests", "recording", "folder", "pipe",
        "below a file", "long name", "empty", "text", "lines", "latin", "list", "object",
        "other results", "deep", "number",
    ],
)  # fmt: skip
def test_an_output_that_is_none_of_ours_is_refused_and_left_as_it_is(
    kind: str, bundle: Path, folder: Path
) -> None:
    out = foreign(kind, folder)

    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    before = content()
    with pytest.raises((OptionError, DataError)) as raised:
        go(bundle, folder, str(out))
    assert len(str(raised.value)) < 500
    assert content() == before
    assert out.is_symlink() == (kind == "link to requests")


def test_the_requests_are_not_taken_for_what_is_under_way(bundle: Path, folder: Path) -> None:
    requests = (folder / "in.jsonl").rename(folder / "out.partial")
    before = requests.read_bytes()
    with pytest.raises(OptionError, match="would replace"):
        go(bundle, folder, "out", "out.partial")
    assert requests.read_bytes() == before


def test_behind_a_link_the_file_is_written(bundle: Path, folder: Path) -> None:
    (folder / "there").mkdir()
    (folder / "out.jsonl").symlink_to(folder / "there" / "answers")
    go(bundle, folder)
    assert (folder / "out.jsonl").is_symlink()
    assert len(lines_of(folder / "there" / "answers")) == 5


@pytest.mark.parametrize("moment", ["journal", "output"])
def test_a_full_disk_is_one_sentence_and_keeps_what_is_answered(
    moment: str, bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, 0

    def full(number: int) -> None:
        nonlocal calls
        calls += 1
        # The journal's first line and an answer each; then the output.
        if calls == (4 if moment == "journal" else 7):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left"):
            go(bundle, folder)
    assert not (folder / "out.jsonl").exists()
    assert {path.name for path in folder.iterdir()} == {
        "0.wav", "1.wav", "in.jsonl", "out.jsonl.partial",
    }  # fmt: skip
    assert go(bundle, folder).new < 5
    go(bundle, folder, "straight.jsonl")
    assert (folder / "out.jsonl").read_bytes() == (folder / "straight.jsonl").read_bytes()


def test_two_runs_do_not_write_into_one_file(bundle: Path, folder: Path) -> None:
    path = folder / "in.jsonl"
    task = BatchTask(
        bundle, tuple(read_requests(path)), PruningOptions(), GenerationOptions(max_new_tokens=2),
        device="cpu",
    )  # fmt: skip

    def second(done: int, _: int) -> None:
        if done == 1:
            with pytest.raises(DataError, match="written by another run"):
                run_batch(task, folder / "out.jsonl", path)

    assert run_batch(task, folder / "out.jsonl", path, progress=second).answered == 4


def test_many_go_on_after_a_bad_one_where_that_is_wanted(
    bundle: Path, tone: NDArray[np.float32]
) -> None:
    model = SpeechLLM(bundle, "cpu")
    audio = Path("/nowhere.wav")
    requests: list[Any] = [(audio, "Who?"), (audio, None), "ab c", (audio, " "), 5]
    found = list(model.ask_many(requests, workers=2, return_exceptions=True))
    assert [type(error).__name__ for error in found] == [
        "AudioError", "PromptError", "OptionError", "PromptError", "OptionError",
    ]  # fmt: skip
    assert all(isinstance(error, SpeechPruneError) for error in found)
    with pytest.raises(AudioError):
        next(model.ask_many(requests))
    with pytest.raises(OptionError, match="pairs of a recording and a question"):
        model.ask_many(None)  # type: ignore[call-overload]


def test_what_was_worked_on_is_given_before_the_source_fails() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise DataError("The source is at its end.")

    results = in_order(lambda n: n * n, source(), workers=3)
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(DataError, match="at its end"):
        next(results)


def test_recordings_are_heard_as_ask_hears_them_and_lines_say_what_was_wrong(
    bundle: Path, folder: Path
) -> None:
    stereo = np.stack([TONE, -TONE], axis=1)
    soundfile.write(folder / "s.wav", stereo, 16_000)
    soundfile.write(folder / "z.wav", np.zeros(16_000), 16_000)
    lines = [{"audio": name, "question": "Who?"} for name in ("s.wav", "z.wav", "1.wav")]
    write(folder / "heard.jsonl", lines)
    go(bundle, folder, requests="heard.jsonl")
    first = lines_of(folder / "out.jsonl")
    assert ["error" in line for line in first] == [True, True, False]
    assert first[2]["decoder"] == "libsndfile"
    options = AudioOptions(channel=0, max_seconds=2.5, allow_silence=True)
    with pytest.raises(OptionError, match="other options"):
        go(bundle, folder, requests="heard.jsonl", audio_options=options)
    go(bundle, folder, "other.jsonl", "heard.jsonl", audio_options=options)
    second = lines_of(folder / "other.jsonl")
    assert ["error" in line for line in second] == [False, False, True]
    assert "longer than 2.5 seconds" in second[2]["error"]
    assert "is silent" in second[1]["notes"][0]
    assert second[0]["seconds_heard"] == second[0]["seconds"] == 2.0


def test_a_recording_of_the_same_size_is_another_one(bundle: Path, folder: Path) -> None:
    go(bundle, folder)
    about = (folder / "0.wav").stat()
    samples, rate = soundfile.read(folder / "0.wav", dtype="int16")
    soundfile.write(folder / "0.wav", samples[::-1], rate)
    os.utime(folder / "0.wav", ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (folder / "0.wav").stat().st_size == about.st_size
    with pytest.raises(OptionError, match="to another question or recording"):
        go(bundle, folder)


def test_a_line_that_takes_too_long_fails_alone_and_can_be_tried_again(
    bundle: Path, folder: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Timer", AtOnce)
        assert go(bundle, folder, deadline=2.0).failed == 5
    line = lines_of(folder / "out.jsonl")[0]
    assert "The recording was not processed within the deadline of 2 seconds" in line["error"]
    assert go(bundle, folder, deadline=60.0) == Outcome(answered=4, failed=1, new=5)
    with pytest.raises(OptionError, match="deadline must be positive"):
        go(bundle, folder, deadline=0.0)


def test_a_cancelled_batch_keeps_what_is_done(bundle: Path, folder: Path) -> None:
    path, token = folder / "in.jsonl", Cancel()
    task = BatchTask(
        bundle,
        tuple(read_requests(path)),
        PruningOptions(),
        GenerationOptions(max_new_tokens=4),
        device="cpu",
    )

    def stop(done: int, _: int) -> None:
        if done == 2:
            token.cancel()

    with pytest.raises(CancelledError):
        run_batch(task, folder / "out.jsonl", path, progress=stop, cancel=token)
    assert run_batch(task, folder / "out.jsonl", path) == Outcome(answered=4, failed=1, new=3)


def test_many_end_with_their_token_and_each_by_its_deadline(bundle: Path, folder: Path) -> None:
    model, token = SpeechLLM(bundle, "cpu"), Cancel()
    requests = [(folder / "0.wav", "Who?")] * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Timer", AtOnce)
        late = model.ask_many(requests, deadline=1, return_exceptions=True, max_new_tokens=2)
        assert [type(found) for found in late] == [DeadlineError] * 4
        with pytest.raises(DeadlineError, match="The recording was not processed"):
            model.listen(folder / "0.wav", deadline=1)
    answers = model.ask_many(
        requests, workers=1, cancel=token, return_exceptions=True, max_new_tokens=2
    )
    assert not isinstance(next(answers), SpeechPruneError)
    token.cancel()
    with pytest.raises(CancelledError):
        list(answers)
    with pytest.raises(CancelledError):
        model.listen(folder / "0.wav", cancel=token)
    with pytest.raises(OptionError, match="deadline"):
        model.ask_many(requests, deadline=-1)
