"""From a set of recordings with choices to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from speechprune_ort.audio_options import AudioOptions, check_audio_options
from speechprune_ort.choices import check_flag
from speechprune_ort.errors import BundleError, OptionError
from speechprune_ort.evaluation.perturbation import (
    CLEAN,
    Perturbation,
    parse_noise,
    parse_speed,
)
from speechprune_ort.evaluation.plan import Origin, Plan
from speechprune_ort.evaluation.samples import sample_by_kind, shuffled
from speechprune_ort.evaluation.scoring import Scoring
from speechprune_ort.evaluation.settings import Setting
from speechprune_ort.evaluation.tasks import read_given
from speechprune_ort.numbers import whole
from speechprune_ort.options import DeviceName
from speechprune_ort.text import check_list, check_path, check_type

__all__ = ["plan_of"]


def plan_of(
    bundle: str | Path,
    data: str | Path,
    settings: Sequence[Setting],
    *,
    task: str | None = None,
    fields: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    noise: str | None = None,
    speed: str | None = None,
    telephone: bool = False,
    scoring: Scoring = "likelihood",
    controls: bool = True,
    device: DeviceName = "auto",
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
    plugins: Sequence[Path] = (),
    audio_options: AudioOptions | None = None,
) -> Plan:
    """Read a set and plan its evaluation.

    Args:
        bundle: folder of the bundle.
        data: SPIRAL's folder, a task's folder, or a JSONL or JSON file; see ``read_given``.
        settings: what to compare, from ``settings_of``.
        task: name of a published benchmark.
        fields: where the parts of a sample stand in a file of another layout.
        limit: largest number of samples, counted from the first.
        sample: size of a random subset, stratified by the kind of recording.
        shuffle: whether choices are shuffled; otherwise they stay as published.
        seed: seed for the order of the choices, for ``sample`` and for noise.
        noise: signal-to-noise ratios to judge at as well, such as ``snr=20,10``.
        speed: speeds to judge at as well, as factors such as ``0.9,1.1``.
        telephone: whether to judge through a telephone's band as well.
        scoring: how a choice is made: ``likelihood``, ``letter`` or ``generate``.
        controls: whether to choose without audio, from another recording and from the transcript
            as well.
        device: as in ``SpeechLLM``.
        threads: as in ``SpeechLLM``.
        provider_options: options of the CUDA execution provider.
        plugins: files that register methods of your own.
        audio_options: as in ``SpeechLLM.listen``.

    Raises:
        OptionError: a value is out of range or of another type, or there is nothing to compare.
        BundleError: ``bundle`` is no path.
        DataError: the set cannot be read, or holds no sample.
    """
    bundle = check_path(bundle, "The path of a bundle", BundleError)
    data = check_path(data, "The path of the samples")
    for name, number in (("limit", limit), ("sample", sample)):
        if number is not None:
            whole(name, number, 1)
    whole("seed", seed, 0)
    for name, text in (("task", task), ("fields", fields), ("noise", noise), ("speed", speed)):
        if text is not None:
            check_type(text, str, name)
    for name, flag in (("shuffle", shuffle), ("telephone", telephone)):
        check_flag(name, flag)
    if not (settings := check_list(settings, Setting, "settings")):
        raise OptionError("There is nothing to compare: give at least one setting.")
    perturbations = [
        CLEAN,
        *(parse_noise(noise) if noise is not None else ()),
        *(parse_speed(speed) if speed is not None else ()),
        *([Perturbation("telephone")] if telephone else ()),
    ]
    given = read_given(data, task, fields)
    samples = given.samples[:limit]
    if sample is not None:
        samples = sample_by_kind(samples, sample, seed)
    if shuffle:
        samples = [shuffled(item, seed) for item in samples]
    return Plan(
        bundle=bundle,
        samples=tuple(samples),
        settings=tuple(settings),
        scoring=scoring,
        perturbations=tuple(perturbations),
        controls=controls,
        seed=seed,
        device=device,
        threads=threads,
        provider_options={} if provider_options is None else provider_options,
        plugins=tuple(check_list(plugins, Path, "plugins")),
        audio_options=check_audio_options(audio_options),
        origin=Origin(
            task or data.name,
            given.files,
            given.refused,
            f"shuffled with seed {seed}" if shuffle else "as published",
        ),
    )
