"""Opening a graph of a bundle: explicit provider, spec checked, no silent fallback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from speechprune_ort.cancel import running
from speechprune_ort.errors import BundleError, CancelledError, DeviceError
from speechprune_ort.runtime.device import Device
from speechprune_ort.specs import GraphSpec

__all__ = ["Session", "open_session"]


class Session(ort.InferenceSession):
    """A graph whose runs end with the call that they work for: see ``speechprune_ort.cancel``."""

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: ort.RunOptions | None = None,
    ) -> Any:
        """See ``onnxruntime.InferenceSession``.

        Raises:
            CancelledError: the call was ended.
        """
        options = run_options or _quiet()
        with running(options):
            return super().run(output_names, input_feed, options)

    def run_with_iobinding(
        self, iobinding: ort.IOBinding, run_options: ort.RunOptions | None = None
    ) -> None:
        """See ``onnxruntime.InferenceSession``.

        Raises:
            CancelledError: the call was ended.
        """
        options = run_options or _quiet()
        with running(options):
            super().run_with_iobinding(iobinding, options)


def _quiet() -> ort.RunOptions:
    """Options of a run that prints nothing: why it ended is raised."""
    options = ort.RunOptions()
    options.log_severity_level = 4
    return options


class _Loading:
    """Lets the loading of a graph end as its runs do."""

    def __init__(self, options: ort.SessionOptions) -> None:
        self._options = options

    @property
    def terminate(self) -> bool:
        """Only ever set."""
        return False

    @terminate.setter
    def terminate(self, value: bool) -> None:
        self._options.set_load_cancellation_flag(value)


def open_session(
    path: Path,
    spec: GraphSpec,
    device: Device,
    threads: int | None,
    *,
    spinning: bool = False,
    trace: Path | None = None,
) -> Session:
    """Open a graph and check it against its spec.

    Args:
        path: the graph.
        spec: what the manifest says of it.
        device: where it runs.
        threads: threads within an operator; None lets ONNX Runtime choose.
        spinning: let idle threads spin between operators. Worth it for the decoder, whose
            steps follow each other; several spinning pools would fight for the same cores.
        trace: beginning of the name of a file for ONNX Runtime's own trace, or None.

    Raises:
        CancelledError: the call that needs it was ended.
        BundleError: the graph does not load, or has other inputs or outputs.
        DeviceError: ONNX Runtime put it on another provider.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if trace is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(trace)
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        with running(_Loading(options)):
            session = Session(path, options, providers=device.providers)
    except CancelledError:
        raise
    except Exception as error:  # onnxruntime raises several classes of its own
        reason = str(error).strip().splitlines()[0]
        raise BundleError(
            f"{path} does not load on {device.name} ({reason}): export the bundle again."
        ) from error
    used = session.get_providers()
    if used[0] != device.provider:
        raise DeviceError(
            f"ONNX Runtime put {path.name} on {used[0]} although {device.provider} was asked "
            "for: run `speechprune-ort doctor`."
        )
    problem = spec.mismatch(session.get_inputs(), session.get_outputs())
    if problem:
        raise BundleError(f"{path.name}: {problem}: export the bundle again.")
    return session
