#!/usr/bin/env python3
"""A worker of ``scripts/fuzz``: makes inputs of one kind and tries them, one line of JSON each."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import shutil
import sys
import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechprune_ort import SpeechLLM, SpeechPruneError
from speechprune_ort.contract.manifest import content_digest
from speechprune_ort.runtime.hearing.recording_file import HASH, UNHASHED

RATE = 16_000
LONGEST_SECONDS = 300  # of sound from a file of a second: more is made up
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, -0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "../..", "/etc/passwd", "\ud83d", "\u2028", "\0", "a" * 5000),
    *([], {}, [[]], {"a": {}}),
)
RECORDED = (("mp4", "aac"), ("adts", "aac"), ("webm", "opus"), ("asf", "wmav2"), ("mpegts", "mp2"))
WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xf0\xff\xff\x7f")
QUESTIONS = ("Who?", "", " ", "\u2028", "<|im_start|>", "\ud83d", "é" * 3000, "\0", "a\nb")
REGEX = {"Regex": r"a*|\s+(?!x)"}
STEPS: dict[str, list[dict[str, Any]]] = {
    "normalizer": [
        {"type": "NFKC"}, {"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"},
        {"type": "Nmt"}, {"type": "ByteLevel"}, {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        {"type": "Replace", "pattern": REGEX, "content": "bb"},
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
         "strip_accents": None, "lowercase": True},
    ],
    "pre_tokenizer": [
        {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "BertPreTokenizer"},
        {"type": "UnicodeScripts"}, {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation", "behavior": "Contiguous"},
        {"type": "CharDelimiterSplit", "delimiter": "W"}, {"type": "FixedLength", "length": 1},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True},
        {"type": "Split", "pattern": REGEX, "behavior": "MergedWithNext", "invert": True},
    ],
    "decoder": [
        {"type": "Fuse"}, {"type": "ByteFallback"}, {"type": "BPEDecoder", "suffix": ""},
        {"type": "WordPiece", "prefix": "", "cleanup": True},
        {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        {"type": "Strip", "content": "\u0000", "start": 9, "stop": 9},
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": ""},
    ],
}  # fmt: skip
"""Steps of tokenizers by the parts that they are of, as the library writes them."""
SEQUENCE = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
Try = Callable[[random.Random], None]


def altered(content: bytes, chance: random.Random) -> bytes:
    """Bytes with one to four changes; headers more often than the rest."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        near = chance.random() < 0.5
        at = chance.randrange(min(len(data), 128) if near else len(data))
        size = chance.choice((1, 2, 4, 8, 64, 1024))
        what = chance.randrange(7)
        if what == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            data[at : at + size] = chance.randbytes(size)
        elif what == 2:
            del data[at : at + size]
        elif what == 3:
            data[at:at] = data[at : at + size]
        elif what == 4:
            del data[at:]
        elif what == 5:
            data[at : at + 4] = chance.choice(WORDS)
        else:
            data += data[at:]
    return bytes(data)


def altered_json(content: Any, chance: random.Random) -> Any:
    """Parsed JSON with one to three values changed, removed or doubled."""
    content = json.loads(json.dumps(content))
    for _ in range(chance.randint(1, 3)):
        node: Any = content
        while isinstance(node, (dict, list)) and node:
            key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
            inner = node[key]
            if isinstance(inner, (dict, list)) and inner and chance.random() < 0.8:
                node = inner
                continue
            what = chance.randrange(4)
            if what == 0:
                del node[key]
            elif what == 1 and isinstance(node, list):
                node.append(inner)
            elif what == 2 and isinstance(inner, (int, float)):
                node[key] = inner * chance.choice((-1, 0, 2, 10**6)) + chance.choice((-1, 0, 1))
            else:
                node[key] = deepcopy(chance.choice(ODD))  # altered itself, later
            break
    return content


def resealed(content: bytes, chance: random.Random) -> bytes:
    """A saved recording with another header or other data, and the hash of what it has now."""
    size = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:size]), content[size:]
    if chance.random() < 0.7:
        header = altered_json(header, chance)
    else:
        data = altered(data, chance)
    about = header.get("__metadata__")
    if isinstance(about, dict):
        about[HASH] = UNHASHED
    text = json.dumps(header).encode()
    begin = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(begin + data).hexdigest()
    return begin.replace(UNHASHED.encode(), digest.encode()) + data


def with_other_steps(content: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A tokenizer with steps of others in one or two of its parts, before its own or alone."""
    content = dict(content)
    for part in chance.sample(sorted(STEPS), chance.randint(1, 2)):
        steps = chance.choices(STEPS[part], k=chance.randint(1, 3))
        if content.get(part) and chance.random() < 0.5:
            steps.append(content[part])
        content[part] = {"type": "Sequence", SEQUENCE[part]: steps}
    return content


def recorded(tone: np.ndarray[Any, Any], form: str, codec: str) -> bytes:
    """Sound as phones, browsers and meetings record it.

    Args:
        tone: (samples,) float32 at ``RATE``.
        form: container, by FFmpeg's name.
        codec: by FFmpeg's name.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=RATE, layout="mono")
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        turned = av.AudioResampler(stream.format, "mono", stream.rate, stream.frame_size or None)
        for piece in [*turned.resample(frame), *turned.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


class Targets:
    """What each kind tries.

    Args:
        bundle: folder of a bundle.
        folder: of this worker alone; ``input`` in it is what is tried.
    """

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.folder, self.input = bundle, folder, folder / "input"
        self.tone = (np.sin(np.arange(RATE) / 9) / 4).astype(np.float32)
        self._model: SpeechLLM | None = None
        self._sounds = self._made_sounds()

    @property
    def model(self) -> SpeechLLM:
        """The bundle, unaltered."""
        self._model = self._model or SpeechLLM(self.bundle, "cpu", 1)
        return self._model

    def audio(self, chance: random.Random) -> None:
        """An altered recording, heard twice with another between: both times the same."""
        from speechprune_ort.runtime.hearing.audio import stream_audio

        ending, content = chance.choice(self._sounds)
        content = altered(content, chance)
        self.input.write_bytes(content)
        path = self.folder / f"sound.{ending}"
        path.write_bytes(content)

        def heard(file: Path) -> np.ndarray[Any, Any]:
            blocks, count = [], 0
            for block in stream_audio(file, None):
                blocks.append(np.array(block))
                count += len(block)
                if count > LONGEST_SECONDS * RATE:
                    raise AssertionError("a file of a second is heard without end")
            return np.concatenate(blocks or [np.zeros(0, np.float32)])

        printed = os.fstat(2).st_size
        first = heard(path)
        other = self.folder / "other.wav"
        if not other.exists():
            soundfile.write(other, np.random.default_rng(1).normal(size=RATE) / 9, RATE)
        heard(other)
        if not np.isfinite(first).all():
            raise AssertionError("NaN or infinity is heard")
        if not np.array_equal(first, heard(path)):
            raise AssertionError("the same file is heard differently a second time")
        if os.fstat(2).st_size > printed:
            raise AssertionError("a decoder prints on standard error")

    def manifest(self, chance: random.Random) -> None:
        """A bundle whose manifest is altered, its digest written anew as an attacker would."""
        content = json.loads((self.bundle / "manifest.json").read_text("utf-8"))
        self._ask_altered(altered_json(content, chance), {})

    def tokenizer(self, chance: random.Random) -> None:
        """A bundle with an altered tokenizer."""
        text = (self.bundle / "tokenizer.json").read_text("utf-8")
        how = chance.random()
        if how < 0.4:
            content = json.dumps(with_other_steps(json.loads(text), chance)).encode()
        elif how < 0.8:
            content = json.dumps(altered_json(json.loads(text), chance)).encode()
        else:
            content = altered(text.encode(), chance)
        self._ask_changed("tokenizer.json", content)

    def onnx(self, chance: random.Random) -> None:
        """A bundle with an altered graph."""
        path = chance.choice(sorted(self.bundle.glob("*.onnx")))
        self._ask_changed(path.name, altered(path.read_bytes(), chance))

    def recording(self, chance: random.Random) -> None:
        """A saved recording that is altered, its hash made right in half of the cases."""
        path = self.folder / "saved"
        if not path.exists():
            self.model.listen(self.tone, sampling_rate=RATE).save(path)
        content = path.read_bytes()
        change = resealed if chance.random() < 0.5 else altered
        content = change(content, chance)
        self.input.write_bytes(content)
        self.model.load_recording(self.input).ask("Who?", max_new_tokens=2)

    def jsonl(self, chance: random.Random) -> None:
        """Requests in altered lines, and their questions."""
        from speechprune_ort.batch import read_requests

        lines = [
            {
                "audio": "tone.wav",
                "question": chance.choice(("Who?",) * 20 + QUESTIONS),
                "id": str(n),
            }
            for n in range(3)
        ]
        if chance.random() < 0.5:
            content = "\n".join(json.dumps(altered_json(e, chance)) for e in lines).encode()
        else:
            text = "\n".join(json.dumps(e, ensure_ascii=chance.random() < 0.5) for e in lines)
            content = altered(text.encode("utf-8", "surrogatepass"), chance)
        self.input.write_bytes(content)
        recording = self.model.listen(self.tone, sampling_rate=RATE)
        requests = list(read_requests(self.input))
        for request in requests:
            if not request.error:
                recording.ask(request.text, max_new_tokens=2)

    def cli(self, chance: random.Random) -> None:
        """Arguments that make little sense."""
        from speechprune_ort.cli.app import app

        wav = self.folder / "tone.wav"
        if not wav.exists():
            soundfile.write(wav, self.tone, RATE)
        paths = [
            str(wav),
            str(self.bundle),
            str(self.folder / "none"),
            "",
            "\0",
            "a" * 300,
            "/dev/null",
        ]
        options = ["--method", "--pruning-rate", "--budget", "--candidates", "--frame-temperature",
                   "--attention", "--single-head", "--positions", "--max-new-tokens",
                   "--temperature",
                   "--top-p", "--stop", "--seed", "--device", "--threads", "--provider-option",
                   "--long-audio", "--memory-budget-mb", "--json", "--explain", "--latency-target",
                   "--nonsense"]  # fmt: skip
        values = ["passages", "speechprune", "none", "auto", "0", "1", "-1", "0.5", "nan", "inf",
                  "1e400",
                  "99999999999999999999", "", "x", "é", "cpu", "cuda", "a=b",
                  "truncate", "float"]  # fmt: skip
        given = [
            "ask",
            str(self.bundle),
            str(wav),
            chance.choice(QUESTIONS[:5]),
            "--max-new-tokens",
            "2",
        ]
        if chance.random() < 0.3:
            given[chance.randrange(1, 4)] = chance.choice(paths)
        if chance.random() < 0.1:
            given[0] = chance.choice(("doctor", "batch", "profile", "nonsense"))
        for _ in range(chance.randint(0, 4)):
            given += [
                chance.choice(options),
                *([chance.choice(values)] if chance.random() < 0.8 else []),
            ]
        self.input.write_text(json.dumps(given), "utf-8")
        os.chdir(self.folder)
        try:
            app(given)
        except SystemExit as end:
            if end.code not in (0, 1, 2, None):
                raise AssertionError(f"exit code {end.code!r}") from None
            if end.code:
                raise SpeechPruneError("refused by the command line") from None

    def _ask_altered(self, manifest: Any, files: dict[str, bytes]) -> None:
        """Ask a bundle with other files, its checksums and digest those of what is there."""
        folder = self.folder / "bundle"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in self.bundle.iterdir():
            if path.name not in files and path.name != "manifest.json":
                os.link(path, folder / path.name) if self._one_disk() else shutil.copy(path, folder)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if isinstance(manifest, dict):
            manifest.pop("digest", None)
            manifest["digest"] = content_digest(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        if not files:
            self.input.write_bytes((folder / "manifest.json").read_bytes())
        model = SpeechLLM(folder, "cpu", 1)
        model.ask(self.tone, "Who?", sampling_rate=RATE, max_new_tokens=2)

    def _ask_changed(self, name: str, content: bytes) -> None:
        self.input.write_bytes(content)
        manifest = json.loads((self.bundle / "manifest.json").read_text("utf-8"))
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"][name] = entry
        self._ask_altered(manifest, {name: content})

    def _one_disk(self) -> bool:
        return self.bundle.stat().st_dev == self.folder.stat().st_dev

    def _made_sounds(self) -> list[tuple[str, bytes]]:
        """A second of sound in every form that libsndfile writes here, and in those of phones."""
        made = []
        forms = soundfile.available_formats()
        wanted = [("wav", "PCM_16"), ("wav", "FLOAT"), ("wav", "GSM610"), ("flac", "PCM_16"),
                  ("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III"), ("aiff", "PCM_16"),
                  ("w64", "PCM_16"), ("caf", "ALAC_16")]  # fmt: skip
        for ending, subtype in wanted:
            if ending.upper() in forms and soundfile.check_format(ending.upper(), subtype):
                file = io.BytesIO()
                rate = 8000 if subtype == "GSM610" else RATE
                soundfile.write(file, self.tone, rate, subtype, format=ending.upper())
                made.append((ending, file.getvalue()))
        return made + [(form, recorded(self.tone, form, codec)) for form, codec in RECORDED]


def outcome(attempt: Try, chance: random.Random) -> dict[str, Any]:
    """What became of one input."""
    try:
        attempt(chance)
    except SpeechPruneError as error:
        text = str(error)
        if not text.strip() or "\n" in text:
            return {"outcome": "finding", "reason": f"no single sentence: {text[:200]!r}"}
        return {"outcome": "refused"}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        trace = traceback.format_exc()
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "fuzz_targets" not in f.filename]
        last = (ours or frames)[-1]
        reason = f"{type(error).__name__} in {Path(last.filename).name}:{last.name}"
        if isinstance(error, AssertionError):
            reason = f"{reason}: {error}"
        return {"outcome": "finding", "reason": reason[:200], "trace": trace[-4000:]}
    return {"outcome": "answer"}


def main() -> None:
    """``fuzz_targets.py KIND BUNDLE SEED FIRST FOLDER MEMORY_MB``, until it is ended."""
    kind, bundle, seed, first, folder, memory = sys.argv[1:]
    limit = int(memory) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What is tried may print: lines for the parent have a descriptor of their own.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.memfd_create("printed"), 2)
    targets = Targets(Path(bundle), Path(folder))
    attempt: Try = getattr(targets, kind)
    if kind in ("recording", "jsonl"):
        _ = targets.model
    lines.write('{"ready": true}\n')
    lines.flush()
    number = int(first)
    while True:
        found = outcome(attempt, random.Random(f"{seed}:{kind}:{number}"))  # noqa: S311
        if found["outcome"] == "finding" and targets.input.exists():
            # The next input takes its place before the parent has read this line.
            shutil.copy(targets.input, targets.folder / f"finding-{number}")
        lines.write(json.dumps(found) + "\n")
        lines.flush()
        number += 1


if __name__ == "__main__":
    main()
