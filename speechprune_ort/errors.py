"""Everything that speechprune-ort raises on purpose.

SpeechPruneError                what a caller catches to catch them all
├── AudioError                  a recording cannot be read, is empty, or is too short
├── BundleError                 a bundle is missing, damaged, or of another schema
│   └── IntegrityError          a file of the bundle is not the one that export wrote
├── ComputeError                a graph failed while it ran
│   └── OutOfMemoryError        there was not enough memory to open or run a graph
├── CancelledError              the caller ended the work
│   └── DeadlineError           its deadline passed
├── DataError                   a set of recordings with questions cannot be read
├── DeviceError                 the device asked for cannot be used on this machine
├── OptionError (ValueError)    an option has a value that it cannot have
├── OutputError                 what a command prints or needs on disk cannot be written
├── PartError                   a part that a model is made from cannot be fetched or does not fit
├── PromptError                 a question is empty or does not fit the model's context
├── RecordingError              a saved recording cannot be read, or is of another bundle
└── ExportError                 a checkpoint cannot be exported
    ├── UnsupportedModelError   no family of ours knows this architecture
    └── ParityError             an exported graph does not compute what torch computes

Every message is one sentence that names the thing and the cure. The command line prints it
and exits with 2; a traceback means a defect of ours.
"""

__all__ = [
    "AudioError",
    "BundleError",
    "CancelledError",
    "ComputeError",
    "DataError",
    "DeadlineError",
    "DeviceError",
    "ExportError",
    "IntegrityError",
    "OptionError",
    "OutOfMemoryError",
    "OutputError",
    "ParityError",
    "PartError",
    "PromptError",
    "RecordingError",
    "SpeechPruneError",
    "UnsupportedModelError",
]


class SpeechPruneError(Exception):
    """Base of every error that this package raises on purpose.

    Its message can be printed anywhere: lone surrogates in it, which names that are not UTF-8
    contain, are written as escapes.
    """

    def __str__(self) -> str:
        """The message."""
        return super().__str__().encode("utf-8", "backslashreplace").decode()


class AudioError(SpeechPruneError):
    """A recording cannot be read, is empty, or is too short to give one audio token."""


class BundleError(SpeechPruneError):
    """A bundle folder is missing, damaged, incomplete, or of a schema we do not know."""


class IntegrityError(BundleError):
    """A file of a bundle differs from the one that export wrote."""


class ComputeError(SpeechPruneError):
    """ONNX Runtime could not run a graph; the message says which, and its reason."""


class OutOfMemoryError(ComputeError):
    """There was not enough memory to open or to run a graph; the message says what to lower."""


class CancelledError(SpeechPruneError):
    """The caller ended the work before it was done."""


class DeadlineError(CancelledError):
    """The work was not done by its deadline."""


class DataError(SpeechPruneError):
    """A set of recordings with questions is missing, or a line of it is not of its form."""


class DeviceError(SpeechPruneError):
    """The device asked for cannot be used here; the message says what is missing."""


class OptionError(SpeechPruneError, ValueError):
    """An option has a value that it cannot have."""


class OutputError(SpeechPruneError):
    """What a command prints or needs on disk cannot be written; the message says where."""


class PartError(SpeechPruneError):
    """A part that a model is made from cannot be fetched, is damaged, or does not fit."""


class PromptError(SpeechPruneError):
    """A question is empty, or prompt and answer together exceed the model's context."""


class RecordingError(SpeechPruneError):
    """A saved recording is missing, damaged, or was made with another bundle."""


class ExportError(SpeechPruneError):
    """A checkpoint cannot be turned into a bundle."""


class UnsupportedModelError(ExportError):
    """The checkpoint's architecture belongs to no family that export knows."""


class ParityError(ExportError):
    """An exported graph differs from its torch module by more than the stated tolerance."""
