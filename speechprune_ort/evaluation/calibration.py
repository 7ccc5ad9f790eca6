"""The balance of a method's two phases for a bundle, set on recordings that no test uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.errors import OptionError
from speechprune_ort.evaluation.executor import LocalExecutor
from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.evaluation.rows import judge_all
from speechprune_ort.evaluation.samples import SampleSet
from speechprune_ort.evaluation.settings import ORIGINAL, settings_of
from speechprune_ort.evaluation.summary import summarize
from speechprune_ort.methods import METHODS
from speechprune_ort.options import DeviceName, PruningOptions
from speechprune_ort.text import read_json

__all__ = ["Calibration", "calibrate", "read_calibration"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found for a method on a bundle.

    Attributes:
        method: its name.
        candidates: as in ``PruningOptions``; None is the method's own number.
        pruning_rate: pruning rate at which it was found.
        bundle: digest of the bundle's manifest.
        data: sha256 of the file of questions.
        samples: how many were judged.
        accuracies: share of right choices of every setting that was tried, by its name.
        failed: samples that could not be used, with the reason.
    """

    method: str
    candidates: float | None
    pruning_rate: float
    bundle: str
    data: str
    samples: int
    accuracies: Mapping[str, float]
    failed: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def calibrate(
    bundle: Path,
    given: SampleSet,
    method: str,
    pruning_rate: float,
    candidates: Sequence[float],
    work: Path,
    device: DeviceName = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Judge a method's own number of candidates and others, and take the most accurate.

    Among equals that is the method's own, or else the first.

    Args:
        bundle: folder of the bundle.
        given: training recordings, of one file: what is judged here must not be tested on.
        method: a method with two phases.
        pruning_rate: pruning rate at which it is judged.
        candidates: numbers to try besides the method's own.
        work: folder that keeps what is judged, so that an interrupted run goes on.
        device: as in ``SpeechLLM``.
        threads: as in ``SpeechLLM``.
        progress: called with the number of samples done and of all.

    Raises:
        OptionError: the method does not have two phases, or a value is out of range; or the folder
            holds something else.
        DataError: no sample could be used, or the folder cannot be written.
    """
    if method not in METHODS or not METHODS[method].two_phases:
        known = ", ".join(name for name, found in METHODS.items() if found.two_phases)
        raise OptionError(f"--method takes a method with two phases ({known}), not {method!r}.")
    tried = settings_of([method], [pruning_rate], [0])
    tried += settings_of([method], [pruning_rate], [0], candidates=candidates)
    settings = list({s.name: s for s in tried if s.name != ORIGINAL.name}.values())
    plan = Plan(bundle, tuple(given.samples), tuple(settings), controls=False, device=device,
                threads=threads)  # fmt: skip
    rows = judge_all(plan, work, LocalExecutor(), progress)
    summary = summarize(rows, settings, ())
    lines = summary.subsets["clean"][0].settings
    found = {line.name: line.accuracy.mean for line in lines}
    balances = {s.name: s.candidates for s in settings}
    best = max(found, key=lambda name: found[name])
    digest = Manifest.read(bundle).digest
    (data,) = given.files.values()
    count = lines[0].accuracy.n
    return Calibration(
        method, balances[best], pruning_rate, digest, data, count, found, summary.failed
    )


def read_calibration(path: Path, bundle: Path) -> Calibration:
    """A calibration that was written for a bundle.

    Raises:
        OptionError: the file is not a calibration, or is another bundle's.
        DataError: it cannot be read.
    """
    content = read_json(path)
    try:
        found: Calibration = msgspec.convert(content, Calibration)
        if unknown := sorted(content.keys() - {part.name for part in fields(Calibration)}):
            raise ValueError(f"it has {unknown[0]!a:.60}")
        if found.method not in METHODS or not METHODS[found.method].two_phases:
            raise ValueError(f"{found.method!a:.60} is no method with two phases")
        PruningOptions(method=found.method, candidates=found.candidates)
    except (ValueError, msgspec.ValidationError) as error:
        raise OptionError(
            f"{path} is not a calibration ({str(error).rstrip('.')}): write it with "
            "speechprune-ort calibrate."
        ) from None
    if found.bundle != Manifest.read(bundle).digest:
        raise OptionError(
            f"{path} was calibrated for another bundle: run speechprune-ort calibrate {bundle}."
        )
    return found
