"""A Piper voice run by onnxruntime on espeak-ng's phonemes, with the time of each word.

Piper itself (GPL-3) is not needed: a voice is an ONNX model from phonemes to samples, and inside
of it lies how long each phoneme lasts.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from small_model.training.voices import RATE, Espeak, Spoken, Word

# A clause, or one mark of punctuation; "30,000" and "3.5" are not divided.
CLAUSES = re.compile(r"(?:[^,.;:!?]|[,.:](?=\d))+|[,.;:!?]")


class Piper:
    """A Piper voice: an ONNX model with the durations of its phonemes as a second output.

    Args:
        model: The voice's ``.onnx`` file; its ``.onnx.json`` lies beside it.
        espeak: Gives the phonemes.
        threads: Threads of onnxruntime.
    """

    def __init__(self, model: Path, espeak: Espeak, threads: int = 1) -> None:
        import onnx
        import onnxruntime

        self._espeak = espeak
        config = json.loads(model.with_name(model.name + ".json").read_text(encoding="utf-8"))
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._rate = int(config["audio"]["sample_rate"])
        self._hop = int(config.get("hop_length", 256))
        graph: Any = onnx.load(str(model))
        (rounded,) = (node for node in graph.graph.node if node.op_type == "Ceil")
        graph.graph.output.append(onnx.ValueInfoProto(name=rounded.output[0]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._spelled: dict[str, str] = {}

    def say(self, text: str, length: float = 1.0, noise: float = 0.667) -> Spoken:
        """Speak plain text, ``length`` times as slowly as the voice's own speed."""
        ids, marks = list(self._ids["^"]), []
        blank = self._ids["_"]
        ids += blank
        for clause in CLAUSES.finditer(text):
            if len(clause[0]) == 1 and not clause[0].isalnum():
                ids += [*self._ids.get(clause[0], []), *blank]
                continue
            words = list(re.finditer(r"\S+", clause[0]))
            groups = self._espeak.phonemes(clause[0])
            if not words or not groups:
                continue
            sizes = [len(self._spell(word[0])) for word in words]
            for members, sounds in match_groups(sizes, groups):
                begin = len(ids)
                for sound in unicodedata.normalize("NFD", sounds):
                    ids += [*self._ids.get(sound, []), *blank]
                shift = clause.start()
                first, last = words[members[0]].start(), words[members[-1]].end()
                marks.append((first + shift, last + shift, begin, len(ids)))
                ids += [*self._ids[" "], *blank]
        ids += self._ids["$"]
        audio, durations = self._session.run(
            None,
            {
                "input": np.array([ids], dtype=np.int64),
                "input_lengths": np.array([len(ids)], dtype=np.int64),
                "scales": np.array([noise, length, 0.8], dtype=np.float32),
            },
        )
        seconds = np.concatenate([[0.0], durations.reshape(-1).cumsum()]) * self._hop / self._rate
        words_said = tuple(Word(a, b, float(seconds[i]), float(seconds[j])) for a, b, i, j in marks)
        samples = soxr.resample(audio.reshape(-1), self._rate, RATE, quality="MQ")
        return Spoken(samples.astype(np.float32), words_said)

    def _spell(self, word: str) -> str:
        if word not in self._spelled:
            self._spelled[word] = "".join(self._espeak.phonemes(word))
        return self._spelled[word]


def match_groups(sizes: Sequence[int], groups: Sequence[str]) -> list[tuple[list[int], str]]:
    """Assign espeak's phoneme groups to the words of a clause.

    espeak-ng says "of the" as one group and "42" as two. Words and groups are cut into runs of
    one to many or many to one, in order, such that phoneme counts differ least.

    >>> match_groups([2, 2, 5], ["ovthe", "hause"])
    [([0, 1], 'ovthe'), ([2], 'hause')]

    Args:
        sizes: Phonemes of each word spoken alone.
        groups: Phonemes of each group of the clause.

    Returns:
        (word indices, phonemes) of each run, in order.
    """
    words, parts = len(sizes), len(groups)
    best: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {(0, 0): (0.0, (0, 0))}
    for i in range(words + 1):
        for j in range(parts + 1):
            if (i, j) not in best:
                continue
            cost = best[i, j][0]
            steps = [(a, 1) for a in range(1, min(5, words - i + 1))]
            steps += [(1, b) for b in range(2, min(16, parts - j + 1))]
            for a, b in steps:
                if j + b > parts:
                    continue
                gap = sum(sizes[i : i + a]) - sum(map(len, groups[j : j + b]))
                total = cost + abs(gap) + 0.1 * (a + b - 2)
                if (i + a, j + b) not in best or total < best[i + a, j + b][0]:
                    best[i + a, j + b] = (total, (i, j))
    if (words, parts) not in best:
        return [(list(range(words)), " ".join(groups))]
    runs: list[tuple[list[int], str]] = []
    end = (words, parts)
    while end != (0, 0):
        begin = best[end][1]
        runs.append((list(range(begin[0], end[0])), " ".join(groups[begin[1] : end[1]])))
        end = begin
    return runs[::-1]
