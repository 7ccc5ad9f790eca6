"""The default model's parts: where they are published, for ``speechprune_ort.models`` to fetch.

`parts.json` says so. Names of packages say nothing of what is in them: each file is pinned by
sha256, read, and never installed or run; where it cannot be had or is another one, that is a
``PartError``. No file on the hub is known to have the bytes of Whisper
base's packages (multilingual, converted for faster-whisper): the conversions there are others.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from speechprune_ort.models.base_files import BaseFile, fetch_base_file
from speechprune_ort.models.packages import PackageFile, Report, check_sha256, fetch_package_files


class Published(msgspec.Struct, forbid_unknown_fields=True):
    """The content of `parts.json`."""

    whisper: BaseFile  # Whisper base, one float16 ``model.bin`` cut in two
    whisper_text: tuple[PackageFile, ...]  # what faster-whisper wants beside it
    qwen: BaseFile  # Qwen2.5-Coder-0.5B-Instruct, one GGUF file, in packages cut in six
    joe: tuple[PackageFile, PackageFile]  # Piper's voice "joe", and its configuration


PUBLISHED = msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes(), type=Published)
WHISPER, WHISPER_TEXT, QWEN = PUBLISHED.whisper, PUBLISHED.whisper_text, PUBLISHED.qwen
WHISPER_PARTS = WHISPER.packages
JOE, JOE_CONFIG = PUBLISHED.joe
QWEN_GGUF = "qwen2.5-coder-0.5b-instruct.gguf"


def fetch_whisper(cache: Path, report: Report) -> bytes:
    """Whisper base, the whole ``model.bin`` of CTranslate2."""
    paths = fetch_package_files(WHISPER_PARTS, cache, report)
    return b"".join(paths[part].read_bytes() for part in WHISPER_PARTS)


def fetch_joe(cache: Path, report: Report) -> Path:
    """Piper's voice "joe", an ``.onnx`` file with its configuration beside it."""
    return fetch_package_files([JOE, JOE_CONFIG], cache, report)[JOE]


def fetch_qwen(cache: Path, report: Report) -> Path:
    """Qwen2.5-Coder-0.5B-Instruct as one GGUF file."""
    target = cache / "packages" / QWEN_GGUF
    if not target.exists():
        paths = fetch_base_file(QWEN, cache, report)
        if len(paths) == 1:
            return paths[0]
        partial = target.with_suffix(".partial")
        partial.write_bytes(b"".join(path.read_bytes() for path in paths))
        partial.replace(target)
    check_sha256(target, QWEN.sha256, "The language model")
    return target
