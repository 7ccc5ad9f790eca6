#!/usr/bin/env python3
"""The SpeechPrune paper's tables with a bundle's figures beside its own.

    scripts/research/reproduce MODEL SPIRAL [OUT]       # all of it
    python -m research.reproduce rates BUNDLE           # the paper's pruning rates for its family
    python -m research.reproduce tables BUNDLE OUT      # OUT/spiral, OUT/dream, OUT/college

``tables`` reads what ``speechprune-ort eval`` left in OUT and writes OUT/paper.md. The paper's
figures are those of arXiv:2412.12009v2, tables I to IV: Qwen2-Audio and DiVA on a Quadro RTX 6000,
without intervals. SPIRAL-H is the part on which the paper's Qwen2-Audio failed with the first 30 s
alone, so that its Original is 0 by definition; of another model it is a subset like any other.

Needs ``pip install -e '.[cpu]'``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from user_errors import one_sentence

from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.files import write_whole
from speechprune_ort.markdown import markdown_table
from speechprune_ort.text import read_json

ORIGINAL = "truncate@0"
HARD = "hard (SPIRAL-H)"

Figures = tuple[float | None, float | None]
"""Accuracy in % on SPIRAL and on SPIRAL-H."""

RATES = {"qwen2_audio": (0.2, 0.4, 0.6, 0.8), "diva": (0.15,)}
NAMES = {"random": "RAP (random tokens)", "crop": "RAC (a random stretch)"}
NAMES |= {"speechprune": "SpeechPrune", "similarity": "phase 1 only", "attention": "phase 2 only"}
NAMES |= {ORIGINAL: "Original (the first window)", "none": "every token"}
QWEN2_AUDIO: Mapping[str, Figures] = {
    ORIGINAL: (60.38, 0.0),
    "none": (None, 43.6),
    "random@0.2": (42.49, 21.45),
    "crop@0.2": (65.71, 48.13),
    "speechprune@0.2": (89.23, 81.64),
    "random@0.4": (42.89, 22.19),
    "crop@0.4": (62.45, 41.90),
    "speechprune@0.4": (85.97, 76.43),
    "random@0.6": (42.39, 21.45),
    "crop@0.6": (58.20, 35.41),
    "speechprune@0.6": (75.89, 63.77),
    "random@0.8": (45.26, 23.19),
    "crop@0.8": (55.83, 33.67),
    "speechprune@0.8": (62.45, 46.15),
    "similarity@0.2": (None, 48.13),
    "attention@0.2": (None, 72.45),
}
DIVA: Mapping[str, Figures] = {ORIGINAL: (48.62, None), "speechprune@0.15": (57.51, None)}
ACCURACY = {"qwen2_audio": QWEN2_AUDIO, "diva": DIVA}
COSTS = {  # by pruning rate: TFLOPs, prefill in ms, memory and activations in GB
    0.0: (12.20, 779, 13.40, 0.19),
    0.2: (10.06, 662, 13.32, 0.15),
    0.4: (7.93, 511, 13.24, 0.11),
    0.6: (5.79, 419, 13.17, 0.07),
    0.8: (3.66, 278, 13.09, 0.04),
}
OTHERS = {  # by family and set: accuracy of the Original and of SpeechPrune
    ("qwen2_audio", "dream"): (53.69, 65.19),
    ("qwen2_audio", "college"): (52.91, 62.86),
    ("diva", "dream"): (45.72, 53.10),
    ("diva", "college"): (55.24, 56.19),
}
SETS = {"dream": "DREAM-TTS, over 60 s", "college": "CN-College-Listen, over 60 s"}

app = typer.Typer(add_completion=False)
console = Console(stderr=True, highlight=False, soft_wrap=True)


def rates_of(bundle: Path) -> tuple[float, ...]:
    """The paper's pruning rates for a bundle's family.

    Raises:
        BundleError: it is no bundle.
        OptionError: the paper has no such family.
    """
    family = Manifest.read(bundle).family
    if family not in RATES:
        raise OptionError(
            f"{bundle} is of the family {family}, and the paper is about "
            f"{' and '.join(RATES)}: give one of those."
        )
    return RATES[family]


@dataclass(frozen=True)
class Results:
    """What ``eval`` found on one set.

    Attributes:
        content: of its ``results.json``.
    """

    content: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Results | None:
        """Of a folder of results; None where there is none.

        Raises:
            DataError: it cannot be read.
        """
        path = folder / "results.json"
        return cls(read_json(path)) if path.is_file() else None

    def accuracy(self, subset: str, setting: str) -> Mapping[str, float] | None:
        """Of a setting on a part of the set, where that is there."""
        for part in self.content["subsets"]["clean"]:
            if part["name"] == subset:
                for line in part["settings"]:
                    if line["name"] == setting:
                        found: Mapping[str, float] = line["accuracy"]
                        return found
        return None

    def cell(self, subset: str, setting: str) -> str:
        """An accuracy in % with its interval and n, empty where there is none."""
        found = self.accuracy(subset, setting)
        if found is None:
            return ""
        mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
        return f"{mean:.1f} [{low:.0f}, {high:.0f}], n = {found['n']:.0f}"

    def cost(self, setting: str) -> tuple[float | None, ...]:
        """TFLOPs, prefill in ms, memory and activations in GB; empty where not measured."""
        found = self.content["costs"].get(setting, {})
        return tuple(
            found.get(key) for key in ("tflops", "prefill_ms", "memory_gb", "activation_gb")
        )


def shown(value: float | None) -> str:
    """A figure of the paper's or a cost; empty where there is none."""
    return "" if value is None else f"{value:.4g}"


def accuracy_table(family: str, results: Results, settings: Sequence[str]) -> list[str]:
    """Settings on SPIRAL and on SPIRAL-H."""
    columns = ("method", "rate", "SPIRAL", "paper", "SPIRAL-H", "paper")
    lines = []
    for setting in settings:
        method, _, rate = setting.partition("@")
        plain, hard = ACCURACY[family].get(setting, (None, None))
        whole = setting in (ORIGINAL, "none")
        lines.append(
            (
                NAMES[setting if whole else method],
                "" if whole else rate,
                results.cell("all", setting),
                shown(plain),
                results.cell(HARD, setting),
                shown(hard),
            )
        )
    return markdown_table(columns, lines)


def cost_table(results: Results, rates: Sequence[float]) -> list[str]:
    """What reading the prompt costs."""
    columns = ("rate", "TFLOPs", "paper", "prefill, ms", "paper", "memory, GB", "paper",
               "activations, GB", "paper")  # fmt: skip
    lines = []
    for rate in (0.0, *rates):
        ours = results.cost(f"speechprune@{rate:g}" if rate else ORIGINAL)
        theirs = COSTS.get(rate, (None,) * 4)
        pairs = [shown(value) for pair in zip(ours, theirs, strict=True) for value in pair]
        lines.append((f"{rate:g}", *pairs))
    return markdown_table(columns, lines)


def other_table(family: str, sets: Mapping[str, Results | None], rate: float) -> list[str]:
    """The other data sets."""
    columns = ("set", "Original", "paper", f"SpeechPrune, rate {rate:g}", "paper")
    lines = []
    for name, title in SETS.items():
        found, theirs = sets[name], OTHERS[family, name]
        ours = [
            found.cell("all", setting) if found else "not run"
            for setting in (ORIGINAL, f"speechprune@{rate:g}")
        ]
        lines.append((title, ours[0], shown(theirs[0]), ours[1], shown(theirs[1])))
    return markdown_table(columns, lines)


def page(bundle: Path, out: Path) -> str:
    """Every table.

    Raises:
        DataError: SPIRAL has not been judged.
    """
    family, rates = Manifest.read(bundle).family, rates_of(bundle)
    results = Results.read(out / "spiral")
    if results is None:
        raise DataError(f"{out} holds no spiral/results.json: run scripts/research/reproduce.")
    others = {name: Results.read(out / name) for name in SETS}
    main = [ORIGINAL, *(f"{m}@{r:g}" for r in rates for m in ("random", "crop", "speechprune"))]
    phases = [f"{m}@{r:g}" for r in rates for m in ("similarity", "attention", "speechprune")]
    about = results.content["about"]
    return "\n".join(
        [
            "# The paper's tables",
            "",
            f"{family}, {about['data']}, scoring {about['scoring']}, choices {about['choices']}.",
            "Accuracies in %, ours with 95 % intervals.",
            "",
            "## Accuracy",
            "",
            *accuracy_table(family, results, [*main, "none"]),
            "",
            "## The phases",
            "",
            *accuracy_table(family, results, phases),
            "",
            "## Cost",
            "",
            *cost_table(results, rates),
            "",
            "## Other data",
            "",
            *other_table(family, others, rates[0]),
            "",
        ]
    )


@app.command()
def rates(bundle: Annotated[Path, typer.Argument(help="Bundle of Qwen2-Audio or DiVA.")]) -> None:
    """Print the paper's pruning rates for a bundle's family."""
    with one_sentence(console):
        print(",".join(f"{rate:g}" for rate in rates_of(bundle)))


@app.command()
def tables(
    bundle: Annotated[Path, typer.Argument(help="Bundle that was judged.")],
    out: Annotated[Path, typer.Argument(help="Folder of results.")],
) -> None:
    """Write OUT/paper.md and print it."""
    with one_sentence(console):
        text = page(bundle, out)
        write_whole(out / "paper.md", text)
    print(text)


if __name__ == "__main__":
    app()
