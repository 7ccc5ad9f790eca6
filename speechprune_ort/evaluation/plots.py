"""Pictures of an evaluation. Needs the extra ``[eval]`` (matplotlib, scikit-learn)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.evaluation.costs import Cost
from speechprune_ort.evaluation.run import Rows
from speechprune_ort.evaluation.settings import ORIGINAL, Setting
from speechprune_ort.evaluation.summary import Line, Summary
from speechprune_ort.files import save_figure, whole_file
from speechprune_ort.statistics import proportion

__all__ = ["draw_plots", "draw_tokens", "require_plots"]

PHASES = ("similarity", "attention", "speechprune")
FIFTHS = 5  # parts of a recording, by where its key sentence begins
MOST_DROPPED = 5000  # drawn of a long recording: more would take minutes
DODGE = 0.006  # from one method to the next, of the axis
DRAWN_CONTROLS = ("question only", "another recording", "transcript as text")


def require_plots() -> None:
    """Say what is missing before hours of evaluation, not after.

    Raises:
        OptionError: matplotlib or scikit-learn is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise OptionError(
            f"Plots need {error.name}: pip install 'speechprune-ort[eval]', or use --no-plots."
        ) from None


def _figure() -> tuple[Any, Any]:
    from cycler import cycler
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    # There are more methods than colours that can be told apart.
    styles = cycler(linestyle=["-", "--"], marker=["o", "s"])
    axes.set_prop_cycle(styles * cycler(color=colormaps["tab10"](range(10))))
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    """Write a picture.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with whole_file(path) as partial:
            save_figure(figure, partial, ".png")
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}): what was judged is kept, and "
            "the same command goes on from there."
        ) from None
    return path


def _curve(axes: Any, x: Sequence[float], lines: Sequence[Line], label: str) -> None:
    means = np.array([line.accuracy.mean for line in lines])
    low = means - [line.accuracy.low for line in lines]
    high = np.array([line.accuracy.high for line in lines]) - means
    axes.errorbar(x, 100 * means, 100 * np.array([low, high]), capsize=3, label=label)


def draw_plots(
    out: Path,
    summary: Summary,
    rows: Rows,
    settings: Sequence[Setting],
    costs: Mapping[str, Cost] | None = None,
) -> list[Path]:
    """Accuracy over kept tokens and over time, the phases, and the place of the key sentence.

    Args:
        out: folder for PNG files.
        summary: what was found.
        rows: that it is made from.
        settings: of the plan.
        costs: by setting, where they were measured.

    Returns:
        The files that were drawn; what the settings do not give is left out.
    """
    perturbation = next(iter(summary.subsets))
    subset = summary.subsets[perturbation][0]
    lines = {line.name: line for line in subset.settings}
    methods: dict[str, list[Setting]] = {}
    for setting in settings:
        if setting.name != ORIGINAL.name or "truncate" not in methods:
            methods.setdefault(setting.options.method, []).append(setting)
    paths = [_draw_accuracy(out / "accuracy_over_kept_tokens.png", methods, lines, subset.controls)]
    if costs:
        paths.append(_draw_times(out / "accuracy_over_time.png", methods, lines, costs))
    phases = {method: methods[method] for method in PHASES if method in methods}
    if len(phases) > 1:
        paths.append(_draw_accuracy(out / "phase_ablation.png", phases, lines, ()))
    found = [item[perturbation] for item in rows if perturbation in item]
    usable = [row for row in found if "error" not in row]
    if sum("key" in row for row in usable) >= FIFTHS:
        paths.append(_draw_places(out / "accuracy_over_key_position.png", usable, settings))
    return paths


def _draw_accuracy(
    path: Path,
    methods: Mapping[str, Sequence[Setting]],
    lines: Mapping[str, Line],
    controls: Sequence[Line],
) -> Path:
    figure, axes = _figure()
    widest = max((line.kept or 0) for line in lines.values())
    for number, (method, settings) in enumerate(methods.items()):
        ordered = sorted((lines[s.name] for s in settings), key=lambda line: line.kept or 0)
        # Methods keep the same numbers of tokens: side by side their intervals can be read.
        aside = DODGE * widest * (number - (len(methods) - 1) / 2)
        _curve(axes, [(line.kept or 0) + aside for line in ordered], ordered, method)
    for number, control in enumerate(c for c in controls if c.name in DRAWN_CONTROLS):
        axes.axhline(100 * control.accuracy.mean, linestyle=":", linewidth=1, color="grey")
        axes.annotate(
            control.name,
            (1 - number / len(DRAWN_CONTROLS), 100 * control.accuracy.mean),
            xycoords=("axes fraction", "data"),
            fontsize=7,
            ha="right",
            va="bottom",
        )
    axes.set_xlabel("audio tokens kept (mean)")
    axes.set_ylabel("accuracy, %")
    figure.legend(loc="outside right center", fontsize=7)
    return _save(figure, path)


def _draw_times(
    path: Path,
    methods: Mapping[str, Sequence[Setting]],
    lines: Mapping[str, Line],
    costs: Mapping[str, Cost],
) -> Path:
    """Accuracy over what a question costs once the recording is encoded."""
    figure, axes = _figure()
    for method, settings in methods.items():
        points = sorted(
            (
                ((costs[s.name].selection_ms or 0.0) + costs[s.name].prefill_ms, lines[s.name])
                for s in settings
            ),
            key=lambda point: point[0],
        )
        _curve(axes, [time for time, _ in points], [line for _, line in points], method)
    axes.set_xlabel("choosing tokens and reading the prompt, ms (median)")
    axes.set_ylabel("accuracy, %")
    figure.legend(loc="outside right center", fontsize=7)
    return _save(figure, path)


def _draw_places(
    path: Path, rows: Sequence[Mapping[str, Any]], settings: Sequence[Setting]
) -> Path:
    """Accuracy by the fifth of the recording in which the key sentence begins, lowest rate."""
    rates = [s.options.rate for s in settings if s.options.method != "none" and s.options.rate]
    shown = [
        setting
        for setting in settings
        if setting.options.method == "none" or setting.options.rate in (0, min(rates, default=0))
    ]
    figure, axes = _figure()
    keyed = [row for row in rows if "key" in row]
    places = [min(FIFTHS - 1, int(FIFTHS * row["key"][0] / row["seconds"])) for row in keyed]
    for number, setting in enumerate(shown):
        x, means, spread = [], [], []
        aside = DODGE * (number - (len(shown) - 1) / 2)
        for place in range(FIFTHS):
            here = [row for row, other in zip(keyed, places, strict=True) if other == place]
            rights = [
                float(np.mean([c == r["answer"] for c in r["settings"][setting.name]["chosen"]]))
                for r in here
            ]
            if rights:
                found = proportion(rights, [row["group"] for row in here])
                x.append((place + 0.5) / FIFTHS + aside)
                means.append(100 * found.mean)
                spread.append((100 * (found.mean - found.low), 100 * (found.high - found.mean)))
        axes.errorbar(x, means, np.transpose(spread), capsize=3, label=setting.name)
    axes.set_xlabel("where the key sentence begins, as a share of the recording")
    axes.set_ylabel("accuracy, %")
    figure.legend(loc="outside right center", fontsize=7)
    return _save(figure, path)


def draw_tokens(
    path: Path, embeds: NDArray[Any], kept: NDArray[np.int64], text: NDArray[Any], title: str
) -> Path:
    """Audio tokens of one recording in two dimensions, kept and dropped, with the question's.

    As figure 4 of arXiv:2412.12009: t-SNE of the embeddings, by cosine.

    Args:
        path: PNG file to write.
        embeds: (tokens, hidden) audio embeddings.
        kept: indices of those that were kept.
        text: (query, hidden) embeddings of the question.
        title: of the picture; it says so where not every dropped token is drawn.
    """
    from sklearn.manifold import TSNE

    dropped = np.setdiff1d(np.arange(len(embeds)), kept)
    if len(dropped) > MOST_DROPPED:
        dropped = dropped[:: -(-len(dropped) // MOST_DROPPED)]
        title += f" ({len(kept) + len(dropped)} of {len(embeds)} tokens drawn)"
    points = np.concatenate([embeds[kept], embeds[dropped], text]).astype(np.float32)
    perplexity = min(30.0, (len(points) - 1) / 3)
    placed = TSNE(metric="cosine", init="random", random_state=0, perplexity=perplexity)
    flat = placed.fit_transform(points)
    chosen, rest, query = np.split(flat, [len(kept), len(kept) + len(dropped)])
    figure, axes = _figure()
    axes.scatter(*rest.T, s=4, color="lightgrey", label="dropped")
    axes.scatter(*chosen.T, s=6, color="tab:blue", label="kept")
    axes.scatter(*query.T, s=18, color="tab:red", marker="x", label="question")
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=8)
    return _save(figure, path)
