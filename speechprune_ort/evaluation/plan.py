"""What an evaluation is to do, in one value that can be sent to other processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.choices import EVERY_TOKEN, check_choice, check_flag
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.evaluation.perturbation import CLEAN, Perturbation
from speechprune_ort.evaluation.samples import Sample
from speechprune_ort.evaluation.scoring import Scoring
from speechprune_ort.evaluation.settings import ORIGINAL, Setting
from speechprune_ort.files import content_of
from speechprune_ort.methods import METHODS, sources_of
from speechprune_ort.numbers import whole
from speechprune_ort.options import DEFAULT_METHOD, DeviceName, PruningOptions
from speechprune_ort.text import check_type

__all__ = ["Origin", "Plan", "Work"]

CHOSEN_PER_SETTING = ("method", "pruning_rate", "candidates", "seed")


@dataclass(frozen=True, slots=True)
class Work:
    """What is still to be judged of one sample.

    Attributes:
        index: index of the sample in the plan.
        settings: names of settings, by the name of the perturbation.
        controls: whether the controls are still to be judged, too.
    """

    index: int
    settings: Mapping[str, tuple[str, ...]]
    controls: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the samples of a plan are from, for its report.

    Attributes:
        name: name of the set.
        files: sha256 of what was read of each file of questions.
        refused: entries that are not samples, each with the reason.
        order: order of the choices, in words.
    """

    name: str = "samples"
    files: Mapping[Path, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    order: str = "as given"


@dataclass(frozen=True)
class Plan:
    """Bundle, samples and everything else that the rows depend on.

    Attributes:
        bundle: folder of the bundle.
        samples: in order, choices already in the order in which they are shown.
        settings: what is compared.
        scoring: how a choice is made.
        perturbations: how the recordings are made harder.
        controls: whether to choose also without audio, from another recording and from the
            transcript.
        seed: seed for the order of the choices and for noise.
        device: device that the bundle runs on.
        threads: number of threads within an operator.
        provider_options: options of the CUDA execution provider.
        plugins: files that register methods of the user's own.
        audio_options: as in ``SpeechLLM.listen``.
        origin: where the samples are from; no row depends on it.

    Raises:
        OptionError: a value is out of range.
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
    plugins: tuple[Path, ...] = ()
    audio_options: AudioOptions = field(default_factory=AudioOptions)
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        check_choice("scoring", self.scoring, get_args(Scoring))
        check_choice("device", self.device, get_args(DeviceName))
        check_flag("controls", self.controls)
        whole("seed", self.seed, 0)
        check_type(self.provider_options, Mapping, "provider_options")  # type: ignore[type-abstract]

    def about(self) -> dict[str, Any]:
        """What the rows depend on, as plain data: rows of another plan do not belong to it.

        Samples, methods, rates, seeds and perturbations are not in it: a row says itself which it
        has, and those that are added later complete it.
        """
        about = {
            "bundle": Manifest.read(self.bundle).digest,
            "pruning": self._shared_options(),
            "scoring": self.scoring,
            "seed": self.seed,
            # Another device or thread count rounds differently: rows are not mixed.
            "device": self.device,
            "threads": self.threads,
        }
        if self.audio_options != AudioOptions():  # rows that do not say so are of the default
            about["audio"] = asdict(self.audio_options)
        if self.provider_options:
            about["provider_options"] = dict(self.provider_options)
        methods = dict.fromkeys(setting.options.method for setting in self.settings)
        if sources := sources_of(self.plugins, methods):
            about["plugins"] = sources
        return about

    def _shared_options(self) -> list[dict[str, Any]]:
        """Options of pruning that a setting's name does not say.

        Of a method's own options those that are not its defaults, and nothing of the method that
        keeps every token, which none of them changes: methods that are added complete the rows.
        """
        found: list[dict[str, Any]] = []
        every = [setting.options for setting in self.settings]
        for options in [one for one in every if one.method != EVERY_TOKEN] or every:
            defaults = asdict(METHODS[options.method].options())
            shared = {
                name: value
                for name, value in options.to_dict().items()
                if name not in CHOSEN_PER_SETTING
                and (name not in defaults or value != defaults[name])
            }
            if shared not in found:
                found.append(shared)
        return sorted(found, key=str)

    def key(self, index: int, perturbation: str) -> str:
        """Name of a row: of its sample, with a digest of the other samples that it depends on."""
        own, every = self._digests[index], self._digests
        # The control takes the recording before; babble is made of any.
        before = next(self.others(index, len(every) - 1), (index or len(every)) - 1)
        others = [every[before]] if perturbation == CLEAN.name else every
        digest = hashlib.sha256("".join((own, *others)).encode()).hexdigest()
        return f"{self.samples[index].name} {perturbation} {digest[:12]}"

    @cached_property
    def control(self) -> Setting:
        """How the mismatched control reads another recording.

        As the default method does (if it is not compared, the first one that is) at the first
        rate: every token of a long recording can take longer than all else together, or not fit.
        Every token where nothing else is compared.
        """
        every = Setting(PruningOptions(method=EVERY_TOKEN))
        pruned = [s for s in self.settings if s.name not in (every.name, ORIGINAL.name)]
        if not pruned:
            return every
        first = (s for s in pruned if s.options.rate == pruned[0].options.rate)
        return min(first, key=lambda setting: setting.options.method != DEFAULT_METHOD)

    @cached_property
    def clusters(self) -> tuple[str, ...]:
        """The cluster of each sample: those that it is one piece of evidence with.

        Samples of one group and samples about one recording share a cluster: samples of different
        clusters have no recording, nor the words of one, in common.
        """
        leader: dict[str, str] = {}

        def top(node: str) -> str:
            while leader.setdefault(node, node) != node:
                node = leader[node]
            return node

        nodes = []
        for sample in self.samples:
            # A recording is known by its path, whatever links lead to it.
            nodes.append(f"audio {os.path.realpath(sample.audio)}")
            if sample.group:
                leader[top(f"group {sample.group}")] = top(nodes[-1])
        names: dict[str, str] = {}
        for node, sample in zip(nodes, self.samples, strict=True):
            names.setdefault(top(node), sample.group or sample.name)
        return tuple(names[top(node)] for node in nodes)

    def others(self, index: int, step: int) -> Iterator[int]:
        """Samples with another recording than a sample's, from ``step`` places after it on.

        Those of its own cluster are left out: they may say the same, even in the same voice.
        """
        count, clusters = len(self.samples), self.clusters
        places = ((index + step + place) % count for place in range(count))
        return (place for place in places if clusters[place] != clusters[index])

    @cached_property
    def _digests(self) -> list[str]:
        """What the rows of each sample depend on."""
        heard = {path: content_of(str(path)) for path in {sample.audio for sample in self.samples}}
        contents = (
            asdict(sample) | {"audio": sample.audio.name, "content": heard[sample.audio]}
            for sample in self.samples
        )
        dumped = (json.dumps(content, sort_keys=True).encode() for content in contents)
        return [hashlib.sha256(content).hexdigest() for content in dumped]

    def work(self, index: int, row: Mapping[str, Any] | None = None) -> Work | None:
        """Return what is to be done for a sample.

        Args:
            index: index of the sample.
            row: what has been found out already, by perturbation.

        Returns:
            The work, or None where nothing is missing.
        """
        # What failed is done again: the recording may have been repaired.
        row = row or {}
        missing = {}
        for perturbation in self.perturbations:
            done = row.get(perturbation.name, {}).get("settings", {})
            names = tuple(
                setting.name
                for setting in self.settings
                if done.get(setting.name, {}).get("seeds") != list(setting.seeds)
            )
            if names:
                missing[perturbation.name] = names
        clean = row.get(CLEAN.name, {})
        # Rows that do not say how another recording was read have read every token of it.
        read = clean.get("another_read_as", EVERY_TOKEN) if "controls" in clean else None
        controls = self.controls and CLEAN in self.perturbations and read != self.control.name
        return Work(index, missing, controls) if missing or controls else None

    def asked_for(self, index: int, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The part of a sample's row that this plan asks for, in its order."""
        asked = {p.name: dict(row[p.name]) for p in self.perturbations}
        whole = self.work(index, row) is None
        for part in asked.values():
            if whole:
                part.pop("error", None)
            if not self.controls:
                part.pop("controls", None)
                part.pop("another_read_as", None)
            if "group" in part:  # which a sample that was added later may have joined
                part["group"] = self.clusters[index]
        return asked
