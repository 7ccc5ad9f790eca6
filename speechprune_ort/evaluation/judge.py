"""One sample under every setting: what a worker does, wherever it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.errors import AudioError, ComputeError, DeviceError, PromptError
from speechprune_ort.evaluation.perturbation import CLEAN, Perturbation, perturb
from speechprune_ort.evaluation.plan import Plan, Work
from speechprune_ort.evaluation.samples import Sample, chance, readable
from speechprune_ort.evaluation.scoring import Chooser
from speechprune_ort.evaluation.settings import Setting
from speechprune_ort.methods import load_plugins, needs_encoder
from speechprune_ort.model import SpeechLLM
from speechprune_ort.options import PruningOptions
from speechprune_ort.recording import Recording
from speechprune_ort.results import Pruning
from speechprune_ort.runtime.hearing.audio import load_audio

__all__ = ["Judge"]

EVERYTHING = PruningOptions(method=EVERY_TOKEN)
NO_MEMORY = "It needs more memory than there is: free memory, or give shorter recordings."

Other = TypeVar("Other")


class Judge:
    """A bundle that answers the samples of a plan, one at a time.

    Each recording is encoded once for all settings and seeds.

    Args:
        plan: what to do.

    Raises:
        BundleError: the bundle cannot be opened; and whatever else ``SpeechLLM`` raises.
    """

    def __init__(self, plan: Plan) -> None:
        load_plugins(plan.plugins)
        self._plan = plan
        self._attention = any(needs_encoder(setting.options) for setting in plan.settings)
        self._model = SpeechLLM(
            plan.bundle, plan.device, plan.threads, dict(plan.provider_options) or None
        )
        hidden = self._model.manifest.dimensions.hidden
        self._silence = self._model.recall(np.zeros((0, hidden), np.float32))
        # The neighbour's recording, for the mismatched control, is often the one just heard.
        self._heard = lru_cache(maxsize=3)(self._hear_clean)

    @property
    def model(self) -> SpeechLLM:
        """The bundle."""
        return self._model

    def rows(self, work: Work) -> dict[str, dict[str, Any]]:
        """Judge a sample under settings and perturbations.

        Args:
            work: which of them; see ``Plan.work``.

        Returns:
            One row for each perturbation, by its name: plain data. If a recording cannot be used,
            its row has an ``error``.
        """
        sample = self._plan.samples[work.index]
        rows: dict[str, dict[str, Any]] = {}
        for p in self._plan.perturbations:
            if p.name in work.settings or (p == CLEAN and work.controls):
                try:
                    rows[p.name] = self._row(work, sample, p)
                except (AudioError, ComputeError, PromptError, DeviceError, MemoryError) as error:
                    reason = str(error) or NO_MEMORY
                    rows[p.name] = {"sample": sample.name, "error": reason}
        return rows

    def hear(self, index: int, perturbation: Perturbation = CLEAN) -> Recording:
        """Encode the recording of a sample."""
        if perturbation == CLEAN:
            return self._heard(self._plan.samples[index].audio)

        rate = self._model.manifest.audio.sampling_rate

        def other(number: int) -> NDArray[np.float32]:
            step = chance(self._plan.seed, index, number).randrange(len(self._plan.samples))
            samples = self._plan.samples
            return self._other(index, step, lambda i: self._load(samples[i].audio, rate))

        audio = self._plan.samples[index].audio
        seed = chance(self._plan.seed, perturbation.name, index).getrandbits(32)
        harder = perturb(self._load(audio, rate), perturbation, rate, seed, other)
        return self._model.listen(
            harder,
            sampling_rate=rate,
            encoder_attention=self._attention,
            # One channel was taken already, and noise may have made it louder.
            audio_options=replace(self._plan.audio_options, channel=None),
        )

    def _load(self, audio: Path, rate: int) -> NDArray[np.float32]:
        return load_audio(readable(audio), to=rate, options=self._plan.audio_options)

    def _other(self, index: int, step: int, load: Callable[[int], Other]) -> Other:
        """What ``load`` makes of another recording: the first usable one from ``step`` on.

        Samples of its own cluster are left out, see ``Plan.clusters``.

        Raises:
            AudioError: no other recording can be used.
        """
        error = AudioError("There is no other recording: give samples of more than one group.")
        for other in self._plan.others(index, step):
            try:
                return load(other)
            except AudioError as unusable:
                error = unusable
        raise error

    def _hear_clean(self, audio: Path) -> Recording:
        return self._model.listen(
            readable(audio),
            encoder_attention=self._attention,
            audio_options=self._plan.audio_options,
        )

    def _row(self, work: Work, sample: Sample, perturbation: Perturbation) -> dict[str, Any]:
        recording = self.hear(work.index, perturbation)
        wanted = work.settings.get(perturbation.name, ())
        chooser = Chooser(sample, self._plan.scoring, self._silence)
        row: dict[str, Any] = {
            "sample": sample.name,
            "kind": sample.kind,
            "group": self._plan.clusters[work.index],
            "hard": sample.hard,
            "seconds": round(recording.seconds, 3),
            "tokens": recording.tokens,
            "answer": sample.answer,
            "choices": len(sample.choices),
            "longest": max(range(len(sample.choices)), key=lambda i: len(sample.choices[i])),
            "settings": {
                setting.name: self.result(chooser, recording, setting, sample, perturbation)
                for setting in self._plan.settings
                if setting.name in wanted
            },
        }
        if sample.key is not None:
            row["key"] = list(sample.key)
        if work.controls and perturbation == CLEAN:
            row["controls"] = self._controls(chooser, work.index, sample)
            row["another_read_as"] = self._plan.control.name
        return row

    def result(
        self,
        chooser: Chooser,
        recording: Recording,
        setting: Setting,
        sample: Sample,
        perturbation: Perturbation,
    ) -> dict[str, Any]:
        """What is chosen under a setting, seed by seed, and how much was kept for it."""
        chosen, kept, covered = [], 0, []
        for seed in setting.seeds:
            choice = chooser(recording, setting.with_seed(seed))
            chosen.append(choice.index)
            kept = choice.pruning.kept
            if sample.key is not None and perturbation.kind != "speed":
                covered.append(self._covered(choice.pruning, sample.key))
        result: dict[str, Any] = {"seeds": list(setting.seeds), "chosen": chosen, "kept": kept}
        if covered:
            result["key_kept"] = round(float(np.mean(covered)), 4)
        return result

    def _covered(self, pruning: Pruning, key: tuple[float, float]) -> float:
        """Share of the key sentence's tokens that was kept."""
        per_second = self._model.manifest.tokens_per_second
        first, last = (round(time * per_second) for time in key)
        inside = (pruning.indices >= first) & (pruning.indices < last)
        return float(inside.sum()) / max(1, min(last, pruning.total) - first)

    def _controls(self, chooser: Chooser, index: int, sample: Sample) -> dict[str, int | None]:
        """Choices without this recording, which show what it adds."""
        controls = {"question": chooser.without_audio()}
        # Without another usable recording there is no such control, which says nothing against the
        # sample's own. The recording before has just been encoded.
        with contextlib.suppress(AudioError):
            other = self._other(index, len(self._plan.samples) - 1, self.hear)
            controls["mismatched"] = chooser(other, self._plan.control.options).index
        if sample.transcript:
            text = self._model.recall(self._model.embed_text(sample.transcript))
            controls["transcript"] = chooser(text, EVERYTHING).index
        return controls
