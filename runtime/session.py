"""Opening a graph of a bundle: explicit provider, spec checked, no silent fallback."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from speechprune_ort.errors import BundleError, DeviceError, OptionError
from speechprune_ort.providers import StrictSession
from speechprune_ort.runtime.device import Device
from speechprune_ort.specs import GraphSpec

__all__ = ["open_session"]


def open_session(
    path: Path,
    spec: GraphSpec,
    device: Device,
    threads: int | None,
    *,
    spinning: bool = False,
    trace: Path | None = None,
) -> ort.InferenceSession:
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
        BundleError: the graph does not load, or has other inputs or outputs.
        DeviceError: ONNX Runtime put it on another provider, or the GPU has no room for it.
        OptionError: the provider does not take one of its options.
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
        session = StrictSession(path, options, device.providers)
    except (DeviceError, OptionError):
        raise
    except Exception as error:  # onnxruntime raises several classes of its own
        reason = str(error).strip().splitlines()[0]
        raise BundleError(
            f"{path} does not load on {device.name} ({reason}): export the bundle again."
        ) from error
    problem = spec.mismatch(session.get_inputs(), session.get_outputs())
    if problem:
        raise BundleError(f"{path.name}: {problem}: export the bundle again.")
    return session
