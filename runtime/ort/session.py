"""Opening and running a graph of a bundle: spec checked, no silent fallback, errors in words.

Whatever ONNX Runtime raises becomes one of our errors here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.cancel import running
from speechprune_ort.contract.specs import (
    AUDIO_ENCODER,
    DECODER,
    DECODER_LOWER,
    DECODER_UPPER,
    EMBED_TOKENS,
    GraphSpec,
)
from speechprune_ort.errors import (
    BundleError,
    ComputeError,
    OptionError,
    OutOfMemoryError,
    SpeechPruneError,
)
from speechprune_ort.runtime.ort.device import FUSED, Device
from speechprune_ort.runtime.ort.endable import EndableSession, Loading, quiet_options
from speechprune_ort.runtime.ort.stream import Stream

__all__ = ["CheckedSession", "memory_errors", "open_session"]

CURES = {
    AUDIO_ENCODER: "lower the memory budget of recordings, or free memory",
    EMBED_TOKENS: "ask a shorter question, or free memory",
    DECODER: "raise the pruning rate, lower max_new_tokens, or free memory",
    DECODER_LOWER: "give a shorter recording, lower max_new_tokens, or free memory",
    DECODER_UPPER: "raise the pruning rate, lower max_new_tokens, or free memory",
}
OTHER_CURE = "lower the budget of tokens, or free memory"
SHAPES = re.compile(
    r"output '([^']+)' .*has shape \{([\d,]*)\} but the computed output shape .* is \{([\d,]*)\}"
)
"""What ONNX Runtime says where a graph would write another shape than the buffer given to it."""
NO_TACTIC = "No valid fpA_intB MatMulNBits tactic"
NO_MEMORY = re.compile(
    r"bad_alloc|bad allocation|[Ff]ailed to allocate|out of memory|[Cc]annot allocate memory"
    r"|std::length_error|CUBLAS_STATUS_ALLOC_FAILED"
)


class CheckedSession:
    """An opened graph.

    Args:
        session: ONNX Runtime's session.
        spec: what the manifest says of the graph.
        stream: what it runs on, if others run on it, too.
    """

    def __init__(
        self, session: ort.InferenceSession, spec: GraphSpec, stream: Stream | None = None
    ) -> None:
        self._session, self._spec, self._stream = session, spec, stream or Stream()

    def get_inputs(self) -> list[Any]:
        """Inputs of the graph, with ``name``, ``type`` and ``shape``."""
        inputs: list[Any] = self._session.get_inputs()
        return inputs

    def io_binding(self) -> ort.IOBinding:
        """An empty binding, for ``run_with_iobinding``."""
        return self._session.io_binding()

    def end_profiling(self) -> str:
        """End ONNX Runtime's own trace and name its file."""
        return str(self._session.end_profiling())

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run on host arrays.

        Args:
            names: names of the outputs.
            feeds: inputs by name.

        Returns:
            The outputs, in the order of ``names``.

        Raises:
            BundleError: an output has another shape than its spec says.
            ComputeError: the run failed, or there was not enough memory.
        """
        try:
            with self._stream.turn():
                outputs: list[NDArray[Any]] = self._session.run(list(names), dict(feeds))
        except SpeechPruneError:
            raise
        except Exception as error:  # onnxruntime raises several classes of its own
            raise _in_words(self._spec.name, error) from error
        self._check(names, feeds, outputs)
        return outputs

    def run_with_iobinding(
        self, binding: ort.IOBinding, settings: Mapping[str, str] | None = None
    ) -> None:
        """Run on bound values.

        ONNX Runtime compares the shape of every bound output with what the graph computes, before
        anything is written to it. Where a stream was given, the run need not be over when this
        returns.

        Args:
            binding: binding of inputs and outputs.
            settings: entries of the run's options.

        Raises:
            BundleError: the graph would write another shape than the bound one.
            ComputeError: the run failed, or there was not enough memory.
            OptionError: the GPU has no fused kernels for the graph, which were asked for.
        """
        try:
            with self._stream.turn():
                options = quiet_options({**self._stream.settings, **(settings or {})})
                self._session.run_with_iobinding(binding, options)
        except SpeechPruneError:
            raise
        except Exception as error:  # onnxruntime raises several classes of its own
            raise _in_words(self._spec.name, error) from error

    def _check(
        self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]], outputs: list[NDArray[Any]]
    ) -> None:
        """Check shapes that a graph leaves open against the spec and the sizes that went in."""
        sizes: dict[str, int] = {}
        for tensor in self._spec.inputs:
            if tensor.name in feeds:
                sizes.update(zip(tensor.axes, np.shape(feeds[tensor.name]), strict=False))
        specs = {tensor.name: tensor for tensor in self._spec.outputs}
        for name, array in zip(names, outputs, strict=True):
            spec = specs[name]
            pairs = zip(spec.axes, spec.shape, strict=True)
            expected = [sizes.get(axis) if size is None else size for axis, size in pairs]
            if len(expected) != array.ndim or any(
                size not in (None, found) for size, found in zip(expected, array.shape, strict=True)
            ):
                shapes = (
                    ",".join("any" if n is None else str(n) for n in shape)
                    for shape in (array.shape, expected)
                )
                raise _other_shape(self._spec.name, name, *shapes)


@contextlib.contextmanager
def memory_errors(name: str) -> Iterator[None]:
    """Say in one sentence that memory ran out around the runs of a graph.

    Args:
        name: name of the graph.

    Raises:
        OutOfMemoryError: there was not enough memory within the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            raise _in_words(name, error) from error
        raise


def _in_words(name: str, error: Exception) -> SpeechPruneError:
    text = str(error)
    if NO_TACTIC in text:
        return OptionError(
            f"The provider option {FUSED!r} cannot be used with this bundle, as one matrix has a "
            "height that is no multiple of 64: leave it out."
        )
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        cure = CURES.get(name, OTHER_CURE)
        return OutOfMemoryError(f"There is not enough memory for {name}: {cure}.")
    shapes = SHAPES.search(text)
    if shapes:
        return _other_shape(name, shapes[1], shapes[3], shapes[2])
    return ComputeError(
        f"{name} failed in ONNX Runtime ({_reason(error)}): export the bundle again, and report it "
        "if that does not help."
    )


def _other_shape(graph: str, tensor: str, found: str, expected: str) -> BundleError:
    return BundleError(
        f"{graph}: output {tensor} has shape ({found}), expected ({expected}): export the bundle "
        "again."
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def open_session(
    path: Path,
    spec: GraphSpec,
    device: Device,
    threads: int | None,
    *,
    spinning: bool = False,
    trace: Path | None = None,
    stream: Stream | None = None,
) -> CheckedSession:
    """Open a graph and check it against its spec.

    Args:
        path: the graph.
        spec: what the manifest says of it.
        device: where it runs.
        threads: threads within an operator; None lets ONNX Runtime choose.
        spinning: let idle threads spin between operators. Worth it for the decoder, whose
            steps follow each other; several spinning pools would fight for the same cores.
        trace: beginning of the name of a file for ONNX Runtime's own trace, or None.
        stream: what it is to run on, see ``CheckedSession``; None gives it one of its own.

    Raises:
        CancelledError: the call that needs it was ended.
        BundleError: the graph does not load, or has other inputs or outputs.
        DeviceError: ONNX Runtime put it on another provider, or the GPU has no room for it.
        OptionError: the provider does not take one of its options.
        OutOfMemoryError: there is not enough memory for it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what it logs as an error it also raises, and we say it
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if spec.name in (DECODER_LOWER, DECODER_UPPER):
        # Within a run only: while one half runs, the other's threads must not.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in device.session_entries.items():
        options.add_session_config_entry(name, value)
    if trace is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(trace)
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        with running(Loading(options)):
            more = None if stream is None else stream.provider_options
            providers = device.providers(more, captures=spec.name == DECODER)
            session = EndableSession(path, options, providers)
    except SpeechPruneError:
        raise
    except Exception as error:  # onnxruntime raises several classes of its own
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            raise OutOfMemoryError(
                f"There is not enough memory to open {path.name} on {device.name}: free memory, or "
                "export the bundle with a narrower --precision."
            ) from error
        raise BundleError(
            f"{path} does not load on {device.name} ({_reason(error)}): export the bundle again."
        ) from error
    try:
        problem = spec.mismatch(session.get_inputs(), session.get_outputs())
    except UnicodeDecodeError:  # ONNX Runtime keeps the names of axes as they are in the file
        problem = "the name of an axis is not text"
    if problem:
        raise BundleError(f"{path.name}: {problem}: export the bundle again.")
    return CheckedSession(session, spec, stream)
