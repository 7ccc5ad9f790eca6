"""Published benchmarks of four choices, read as they are published: ``eval --task NAME``.

Each task says where its layout was taken from. What is licensed otherwise than this project stays
where it is: a task is a name for files that you have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.evaluation.layout import OWN, Layout, parse_map
from speechprune_ort.evaluation.samples import SampleSet, read_set
from speechprune_ort.text import check_path

__all__ = ["TASKS", "Task", "read_given", "read_task"]


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark and its layout.

    Attributes:
        about: what is asked, in a phrase.
        files: names that the file of questions has, in the benchmark's folder; the first counts.
        layout: layout of its entries.
        source: where the benchmark and its layout are from.
    """

    about: str
    files: tuple[str, ...]
    layout: Layout
    source: str


def _race(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """AudioMarathon tells the two levels of RACE by the path alone."""
    path = str(entry.get("audio_path", ""))
    level = next((name for name in ("high", "middle") if name in path), "")
    return {**entry, "level": level or None}


def _air(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recordings of Audio_Grounding are FLAC, whatever their names say."""
    path = entry.get("path")
    if entry.get("task_name") == "Audio_Grounding" and isinstance(path, str):
        return {**entry, "path": str(Path(path).with_suffix(".flac"))}
    return entry


TASKS: Mapping[str, Task] = {
    "audiomarathon-race": Task(
        "passages read aloud, 90 to 300 s, with RACE's questions",
        ("race_benchmark.json",),
        Layout({"audio": "audio_path", "choices": "options", "kind": "level"}, _race),
        "arXiv:2510.07293; the evaluation scripts in github.com/DabDans/AudioMarathon",
    ),
    "mmau-test-mini": Task(
        "sound, music and speech, up to 30 s, 1,000 questions",
        ("mmau-test-mini.json",),
        Layout({"audio": "audio_id", "kind": "task"}),
        "arXiv:2410.19168; github.com/Sakshi113/MMAU",
    ),
    "mmar": Task(
        "reasoning about sound, music, speech and mixtures, 1,000 questions",
        ("MMAR-meta.json", "MMAR-meta.jsonl"),
        Layout({"audio": "audio_path", "kind": "modality"}),
        "arXiv:2505.13032; the data set BoJack/MMAR",
    ),
    "air-bench-foundation": Task(
        "19 tasks about speech, sound and music",
        ("Foundation_meta.json",),
        Layout(
            {
                "audio": "{task_name}_{dataset_name}/{path}",
                "choices": "choice_a+choice_b+choice_c+choice_d",
                "answer": "answer_gt",
                "kind": "task_name",
                "id": "{task_name}-{dataset_name}-{uniq_id}",
            },
            _air,
        ),
        "arXiv:2402.07729; the data set qyang1021/AIR-Bench-Dataset",
    ),
}
"""The benchmarks, by name."""


def read_task(name: str, folder: Path) -> SampleSet:
    """Read a published benchmark.

    Args:
        name: name of the task.
        folder: the folder that holds its file of questions, beside its recordings.

    Raises:
        OptionError: there is no task of that name.
        DataError: the folder does not hold its file, or see ``read_set``.
    """
    if name not in TASKS:
        raise OptionError(f"--task takes {', '.join(TASKS)}, not {name!a:.60}.")
    task = TASKS[name]
    check_path(folder, "The folder of the task")
    path = next((folder / file for file in task.files if (folder / file).is_file()), None)
    if path is None:
        raise DataError(
            f"{folder} holds no {' or '.join(task.files)}: give the folder of {name} that holds "
            "it, with its recordings beside it."
        )
    return read_set(path, task.layout)


def read_given(data: Path, task: str | None = None, fields: str | None = None) -> SampleSet:
    """Read what ``--data``, ``--task`` and ``--map`` name.

    Args:
        data: a file or folder, see ``read_set``; for a task, its folder.
        task: name of a published benchmark.
        fields: where the parts of a sample stand, see ``parse_map``.

    Raises:
        OptionError: a task and a mapping are both given, or one of them is not known.
        DataError: as ``read_set`` and ``read_task``.
    """
    if task is None:
        return read_set(data, OWN if fields is None else parse_map(fields))
    if fields is not None:
        raise OptionError("--task has a layout of its own: leave out --map.")
    return read_task(task, data)
