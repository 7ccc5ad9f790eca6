"""Query-aware audio token pruning for Speech LLMs on ONNX Runtime.

>>> from speechprune_ort import SpeechLLM  # doctest: +SKIP
>>> model = SpeechLLM("bundle/")  # doctest: +SKIP
>>> model.ask("meeting.wav", "Who owns the budget?").text  # doctest: +SKIP
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from speechprune_ort.errors import (
    AudioError,
    BundleError,
    CancelledError,
    ComputeError,
    DataError,
    DeadlineError,
    DeviceError,
    ExportError,
    IntegrityError,
    OptionError,
    OutOfMemoryError,
    OutputError,
    ParityError,
    PartError,
    PromptError,
    RecordingError,
    SpeechPruneError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from speechprune_ort.answer_stream import AnswerStream
    from speechprune_ort.audio_options import AudioOptions
    from speechprune_ort.cancel import Cancel
    from speechprune_ort.chat import Chat
    from speechprune_ort.contract.manifest import Manifest
    from speechprune_ort.live import LiveRecording
    from speechprune_ort.model import SpeechLLM
    from speechprune_ort.options import GenerationOptions, PruningOptions
    from speechprune_ort.recording import Recording
    from speechprune_ort.results import Answer, Evidence, Pruning, Score, Span
    from speechprune_ort.timings import Timings

__all__ = [
    "Answer",
    "AnswerStream",
    "AudioError",
    "AudioOptions",
    "BundleError",
    "Cancel",
    "CancelledError",
    "Chat",
    "ComputeError",
    "DataError",
    "DeadlineError",
    "DeviceError",
    "Evidence",
    "ExportError",
    "GenerationOptions",
    "IntegrityError",
    "LiveRecording",
    "Manifest",
    "OptionError",
    "OutOfMemoryError",
    "OutputError",
    "ParityError",
    "PartError",
    "PromptError",
    "Pruning",
    "PruningOptions",
    "Recording",
    "RecordingError",
    "Score",
    "Span",
    "SpeechLLM",
    "SpeechPruneError",
    "Timings",
    "UnsupportedModelError",
    "__version__",
]

__version__ = "0.1.0"

# ONNX Runtime reads it as it is imported, which no module of ours is before this one; calling its
# disable_telemetry_events() is too late for the files that it writes and the host that it looks up.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Answer": "results",
    "AnswerStream": "answer_stream",
    "AudioOptions": "audio_options",
    "Cancel": "cancel",
    "Chat": "chat",
    "Evidence": "results",
    "GenerationOptions": "options",
    "LiveRecording": "live",
    "Manifest": "contract.manifest",
    "Pruning": "results",
    "PruningOptions": "options",
    "Recording": "recording",
    "Score": "results",
    "Span": "results",
    "SpeechLLM": "model",
    "Timings": "timings",
}
"""Modules of the names that are loaded on first use."""


def __getattr__(name: str) -> Any:
    # Nothing heavy is loaded with the package: the command line must be able to install its signal
    # handlers first, and `doctor`, export and the option classes must work, and say what is
    # missing, where no wheel of ONNX Runtime is installed.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise DeviceError(
            "ONNX Runtime is not installed: pip install 'speechprune-ort[cpu]' or "
            "'speechprune-ort[gpu]'."
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
