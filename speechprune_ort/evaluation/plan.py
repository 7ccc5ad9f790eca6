"""What an evaluation is to do, in one value that can be sent to other processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechprune_ort.evaluation.perturbation import CLEAN, Perturbation
from speechprune_ort.evaluation.samples import Sample
from speechprune_ort.evaluation.scoring import Scoring
from speechprune_ort.evaluation.settings import Setting
from speechprune_ort.manifest import Manifest
from speechprune_ort.options import DeviceName

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """Bundle, samples and everything that decides about the rows.

    Attributes:
        bundle: folder of the bundle.
        samples: in order, choices already in the order in which they are shown.
        settings: what is compared.
        scoring: how a choice is made.
        perturbations: of the recordings.
        controls: also choose without audio, from another recording and from the transcript.
        seed: of the choices' order and of noise.
        device: where the bundle runs.
        threads: within an operator.
        provider_options: of the CUDA execution provider.
    """

    bundle: Path
    samples: tuple[Sample, ...]
    settings: tuple[Setting, ...]
    scoring: Scoring = "likelihood"
    perturbations: tuple[Perturbation, ...] = (CLEAN,)
    controls: bool = True
    seed: int = 0
    device: DeviceName = "auto"
    threads: int | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """What the rows depend on, as plain data: rows of another plan do not belong to it."""
        samples = [asdict(s) | {"audio": s.audio.name} for s in self.samples]
        digest = hashlib.sha256(json.dumps(samples, sort_keys=True).encode()).hexdigest()
        return {
            "bundle": Manifest.read(self.bundle).digest,
            "samples": digest,
            "settings": [asdict(setting) for setting in self.settings],
            "scoring": self.scoring,
            "perturbations": [p.name for p in self.perturbations],
            "controls": self.controls,
            "seed": self.seed,
            # Another device or thread count rounds differently: rows are not mixed.
            "device": self.device,
            "threads": self.threads,
        }
