"""Query-aware audio token pruning for Speech LLMs on ONNX Runtime.

>>> from speechprune_ort import SpeechLLM  # doctest: +SKIP
>>> model = SpeechLLM("bundle/")  # doctest: +SKIP
>>> model.ask("meeting.wav", "Who owns the budget?").text  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.errors import (
    AudioError,
    BundleError,
    ComputeError,
    DataError,
    DeviceError,
    ExportError,
    IntegrityError,
    OptionError,
    OutOfMemoryError,
    ParityError,
    PromptError,
    RecordingError,
    SpeechPruneError,
    UnsupportedModelError,
)
from speechprune_ort.manifest import Manifest
from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.results import Answer, AnswerStream, Pruning, Score, Span, Timings

if TYPE_CHECKING:
    from speechprune_ort.model import SpeechLLM
    from speechprune_ort.recording import Recording

__all__ = [
    "Answer",
    "AnswerStream",
    "AudioError",
    "AudioOptions",
    "BundleError",
    "ComputeError",
    "DataError",
    "DeviceError",
    "ExportError",
    "GenerationOptions",
    "IntegrityError",
    "Manifest",
    "OptionError",
    "OutOfMemoryError",
    "ParityError",
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


def __getattr__(name: str) -> Any:
    # ONNX Runtime is loaded when a model is wanted, so that `doctor`, export and the option
    # classes work, and say what is missing, where no wheel of it is installed.
    if name in ("SpeechLLM", "Recording"):
        try:
            from speechprune_ort.model import SpeechLLM
            from speechprune_ort.recording import Recording
        except ModuleNotFoundError as error:
            if error.name != "onnxruntime":
                raise
            raise DeviceError(
                "ONNX Runtime is not installed: pip install 'speechprune-ort[cpu]' or "
                "'speechprune-ort[gpu]'."
            ) from error
        return SpeechLLM if name == "SpeechLLM" else Recording
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
