"""Pictures of an evaluation. Needs the extra ``[eval]`` (matplotlib, scikit-learn)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.errors import OptionError
from speechprune_ort.evaluation.costs import Cost
from speechprune_ort.evaluation.drawing import KINDS, Picture, save
from speechprune_ort.evaluation.rows import Rows
from speechprune_ort.evaluation.settings import ORIGINAL, Setting
from speechprune_ort.evaluation.summary import Line, Subset, Summary
from speechprune_ort.runtime.choosing.methods.baselines import BEGINNING
from speechprune_ort.runtime.choosing.methods.speechprune import PHASES
from speechprune_ort.statistics import proportion
from speechprune_ort.text import for_picture

__all__ = ["PICTURES", "draw_accuracy", "draw_plots", "draw_tokens", "require_plots"]

KEPT, TIME = "accuracy_over_kept_tokens.png", "accuracy_over_time.png"
PLACE = "accuracy_over_key_position.png"
ABLATION, TOKENS = "phase_ablation.png", "tokens_tsne.png"
PICTURES = tuple(
    str(Path(name).with_suffix(kind))
    for name in (KEPT, TIME, ABLATION, PLACE, TOKENS)
    for kind in KINDS
)
"""Names of all files that pictures are written to."""
FIFTHS = 5  # parts of a recording, by where its key sentence begins
MOST_DROPPED = 5000  # drawn of a long recording: more would take minutes
NEAREST_TICKS = 1.12  # ratio of two numbers at a logarithmic axis
DRAWN_CONTROLS = ("question only", "another recording", "transcript as text", "chance")


def require_plots() -> None:
    """Say what is missing before hours of evaluation, not after.

    Raises:
        OptionError: matplotlib or scikit-learn is not installed.
    """
    for name in ("matplotlib", "sklearn"):
        # Not imported: a wrong option would wait for it.
        if importlib.util.find_spec(name) is None:
            raise OptionError(
                f"Plots need {name}: pip install 'speechprune-ort[eval]', or use --no-plots."
            )


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.2), dpi=150, layout="constrained")
    return figure, figure.add_subplot()


def draw_plots(
    out: Path,
    summary: Summary,
    rows: Rows,
    settings: Sequence[Setting],
    costs: Mapping[str, Cost] | None = None,
) -> list[Path]:
    """Accuracy over kept tokens and over time, the phases, and the place of the key sentence.

    Args:
        out: folder for the pictures, each as PNG, SVG and PDF.
        summary: what was found.
        rows: the rows that it is made from.
        settings: the plan's settings.
        costs: costs by setting, where they were measured.

    Returns:
        The PNG files that were drawn; what the settings do not give is left out.
    """
    perturbation = next(iter(summary.subsets))
    subset = summary.subsets[perturbation][0]
    methods: dict[str, list[str]] = {}
    for setting in settings:
        if setting.name != ORIGINAL.name or BEGINNING not in methods:
            methods.setdefault(setting.options.method, []).append(setting.name)
    paths = [draw_accuracy(out / KEPT, methods, subset)]
    if costs:
        paths.append(_draw_times(out / TIME, methods, subset, costs))
    phases = {method: methods[method] for method in PHASES if method in methods}
    if len(phases) > 1:
        paths.append(draw_accuracy(out / ABLATION, phases, subset))
    found = [item[perturbation] for item in rows if perturbation in item]
    usable = [row for row in found if "error" not in row]
    if sum("key" in row for row in usable) >= FIFTHS:
        paths.append(_draw_places(out / PLACE, usable, settings))
    return paths


def _curves(
    picture: Picture,
    methods: Mapping[str, Sequence[str]],
    subset: Subset,
    place: Callable[[Line], float],
) -> list[float]:
    """Draw a curve for each method, every token as a band, and chance; return the places."""
    lines = {line.name: line for line in subset.settings}
    curves = [method for method in methods if method != EVERY_TOKEN]
    places: list[float] = []
    for method in curves:
        found = sorted((lines[name] for name in methods[method]), key=place)
        x = [place(line) for line in found]
        picture.curve(method, x, [line.accuracy for line in found], len(curves))
        places += x
    if every := lines.get(EVERY_TOKEN):
        kept = "" if every.kept is None else f" ({every.kept:.0f} tokens)"
        picture.band(every.accuracy, f"every token{kept}")
    for control in subset.controls:
        if control.name in DRAWN_CONTROLS:
            picture.level(control.accuracy.mean, control.name)
    return places


def draw_accuracy(path: Path, methods: Mapping[str, Sequence[str]], subset: Subset) -> Path:
    """Accuracy over the audio tokens that are kept.

    Args:
        path: PNG file to write; SVG and PDF lie beside it.
        methods: for each curve the names of its settings.
        subset: what was found.

    Returns:
        ``path``.

    Raises:
        DataError: it cannot be written.
    """
    n = subset.settings[0].accuracy.n
    label = "audio tokens kept (mean, logarithmic)"
    picture = Picture(label, n, subset.groups, logarithmic=True)
    places = _curves(picture, methods, subset, lambda line: max(1.0, line.kept or 1.0))
    return save(picture.finish(_apart(places)), path)


def _apart(places: Sequence[float]) -> list[float]:
    """Ticks of a logarithmic axis: the places, but for those whose numbers would touch."""
    kept: list[float] = []
    for place in sorted({round(place) for place in places}):
        if not kept or place > kept[-1] * NEAREST_TICKS:
            kept.append(place)
    return kept


def _draw_times(
    path: Path,
    methods: Mapping[str, Sequence[str]],
    subset: Subset,
    costs: Mapping[str, Cost],
) -> Path:
    """Accuracy over what a question costs once the recording is encoded."""
    label = "choosing tokens and reading the prompt, ms (median, logarithmic)"
    n = subset.settings[0].accuracy.n
    picture = Picture(label, n, subset.groups, logarithmic=True)

    def place(line: Line) -> float:
        return (costs[line.name].selection_ms or 0.0) + costs[line.name].prefill_ms

    places = _curves(picture, methods, subset, place)
    return save(picture.finish(_apart(places)), path)


def _draw_places(
    path: Path, rows: Sequence[Mapping[str, Any]], settings: Sequence[Setting]
) -> Path:
    """Accuracy by the fifth of the recording in which the key sentence begins, lowest rate."""
    rates = [s.options.rate for s in settings if s.options.method != EVERY_TOKEN and s.options.rate]
    shown = [
        setting
        for setting in settings
        if setting.options.method == EVERY_TOKEN
        or setting.options.rate in (0, min(rates, default=0))
    ]
    keyed = [row for row in rows if "key" in row]
    places = [min(FIFTHS - 1, int(FIFTHS * row["key"][0] / row["seconds"])) for row in keyed]
    label = "where the key sentence begins, as a share of the recording"
    picture = Picture(label, len(keyed), len({row["group"] for row in keyed}))
    for setting in shown:
        x, found = [], []
        for place in sorted(set(places)):
            here = [row for row, other in zip(keyed, places, strict=True) if other == place]
            rights = [
                float(np.mean([c == r["answer"] for c in r["settings"][setting.name]["chosen"]]))
                for r in here
            ]
            x.append((place + 0.5) / FIFTHS)
            found.append(proportion(rights, [row["group"] for row in here]))
        dashed = setting.name == ORIGINAL.name
        picture.curve(setting.options.method, x, found, len(shown), setting.name, dashed)
    picture.level(float(np.mean([1 / row["choices"] for row in keyed])), "chance")
    return save(picture.finish(), path)


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
        title: title of the picture; it is extended if not every dropped token is drawn.
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
    axes.set_title(for_picture(title, 50, 6), fontsize=9, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=8)
    return save(figure, path)
