"""Accuracy on recordings with choices: read a set, score a bundle on it, say how sure that is.

From Python: ``plan_of`` reads a set, ``run`` judges it and writes the reports that the command line
writes, too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechprune_ort.evaluation.evaluate import power_of, run
    from speechprune_ort.evaluation.plan import Plan
    from speechprune_ort.evaluation.planning import plan_of
    from speechprune_ort.evaluation.report import Report
    from speechprune_ort.evaluation.settings import Setting, settings_of

__all__ = ["Plan", "Report", "Setting", "plan_of", "power_of", "run", "settings_of"]

_HOMES = {
    "Plan": "plan",
    "Report": "report",
    "Setting": "settings",
    "plan_of": "planning",
    "power_of": "evaluate",
    "run": "evaluate",
    "settings_of": "settings",
}
"""Modules of the names: listing tasks does not load the runtime."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
