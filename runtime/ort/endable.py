"""Graphs whose loading and runs end with the call that they work for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from speechprune_ort.cancel import running
from speechprune_ort.providers import StrictSession

__all__ = ["EndableSession", "Loading", "quiet_options"]


class EndableSession(StrictSession):
    """A graph whose runs end with the call that they work for: see ``speechprune_ort.cancel``."""

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: ort.RunOptions | None = None,
    ) -> Any:
        """See ``StrictSession``.

        Raises:
            CancelledError: the call was ended.
            DeviceError: the GPU has no room, or fails.
        """
        options = run_options or quiet_options()
        with running(options):
            return super().run(output_names, input_feed, options)

    def run_with_iobinding(
        self, iobinding: ort.IOBinding, run_options: ort.RunOptions | None = None
    ) -> None:
        """See ``StrictSession``.

        Raises:
            CancelledError: the call was ended.
            DeviceError: the GPU has no room, or fails.
        """
        options = run_options or quiet_options()
        with running(options):
            super().run_with_iobinding(iobinding, options)


def quiet_options(settings: Mapping[str, str] | None = None) -> ort.RunOptions:
    """Options of a run that prints nothing: why it ended is raised.

    Args:
        settings: further entries by name.
    """
    options = ort.RunOptions()
    options.log_severity_level = 4
    for name, value in (settings or {}).items():
        options.add_run_config_entry(name, value)
    return options


class Loading:
    """Lets the loading of a graph end as its runs do.

    Args:
        options: options of the session that is loaded.
    """

    def __init__(self, options: ort.SessionOptions) -> None:
        self._options = options

    @property
    def terminate(self) -> bool:
        """Only ever set."""
        return False

    @terminate.setter
    def terminate(self, value: bool) -> None:
        self._options.set_load_cancellation_flag(value)
