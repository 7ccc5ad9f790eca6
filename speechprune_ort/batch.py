"""Many questions about many recordings: JSONL in, JSONL out, here or on a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechprune_ort.errors import AudioError, DataError, PromptError
from speechprune_ort.methods import load_plugins, needs_encoder
from speechprune_ort.model import SpeechLLM
from speechprune_ort.options import DeviceName, GenerationOptions, PruningOptions
from speechprune_ort.ray_workers import RayWorkers
from speechprune_ort.recording import Recording

__all__ = ["BatchTask", "answer_all", "read_requests"]


@dataclass(frozen=True, slots=True)
class Request:
    """A recording and the questions about it.

    Attributes:
        audio: path of the recording.
        questions: in order.
        ids: of the lines that they came from.
    """

    audio: Path
    questions: tuple[str, ...]
    ids: tuple[str, ...]


def read_requests(path: Path) -> list[Request]:
    """Read lines of ``{"audio": ..., "question": ..., "id": ...}``; the id is optional.

    Neighbouring lines about one recording become one request, so that it is encoded once.

    Args:
        path: JSONL; relative audio paths are taken from its folder.

    Raises:
        DataError: it cannot be read, or a line is not of this form; the message names it.
    """
    requests: list[Request] = []
    seen: set[str] = set()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): give a JSONL file.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            audio, question = path.parent / entry["audio"], entry["question"].strip()
            name = str(entry.get("id", number))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"Line {number} of {path} is no request ({type(error).__name__}: {error}): it "
                'takes {"audio": "a.wav", "question": "Who?"}.'
            ) from None
        if name in seen:
            raise DataError(f"{path} has the id {name!r} more than once: ids must be unique.")
        seen.add(name)
        last = requests[-1] if requests else None
        if last and last.audio == audio:
            requests[-1] = Request(audio, (*last.questions, question), (*last.ids, name))
        else:
            requests.append(Request(audio, (question,), (name,)))
    if not requests:
        raise DataError(f"{path} holds no request.")
    return requests


@dataclass(frozen=True)
class BatchTask:
    """What answers requests, here or on a worker.

    Attributes:
        bundle: folder of the bundle.
        requests: all of them.
        pruning: of every answer.
        generation: of every answer.
        device: where the bundle runs.
        threads: within an operator.
        provider_options: of the CUDA execution provider.
        plugins: files that register methods of the user's own.
    """

    bundle: Path
    requests: tuple[Request, ...]
    pruning: PruningOptions
    generation: GenerationOptions
    device: DeviceName = "auto"
    threads: int | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[Path, ...] = ()

    @property
    def uses_cuda(self) -> bool:
        """Whether a worker needs a GPU of its own."""
        return self.device == "cuda"

    def open(self) -> Callable[[int], list[dict[str, Any]]]:
        """Load the bundle; the function answers the request at an index."""
        load_plugins(self.plugins)
        options = dict(self.provider_options) or None
        model = SpeechLLM(self.bundle, self.device, self.threads, options)
        return lambda index: self._answer(model, self.requests[index])

    def _answer(self, model: SpeechLLM, request: Request) -> list[dict[str, Any]]:
        try:
            recording = model.listen(request.audio, encoder_attention=needs_encoder(self.pruning))
        except AudioError as error:
            return [{"id": name, "error": str(error)} for name in request.ids]
        pairs = zip(request.ids, request.questions, strict=True)
        return [self._line(recording, name, question) for name, question in pairs]

    def _line(self, recording: Recording, name: str, question: str) -> dict[str, Any]:
        try:
            answer = recording.ask(question, pruning=self.pruning, generation=self.generation)
        except PromptError as error:
            return {"id": name, "error": str(error)}
        return {
            "id": name,
            "question": question,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "seconds": round(answer.seconds, 3),
            "tokens": answer.pruning.total,
            "kept": answer.pruning.kept,
        }


def answer_all(
    task: BatchTask, done: Sequence[str], workers: RayWorkers | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Answer every request that is not done, in any order; each is a list of output lines.

    Args:
        task: what to answer.
        done: ids that have their answers.
        workers: of a Ray cluster; None answers in this process.
    """
    skip = set(done)
    missing = [i for i, request in enumerate(task.requests) if not skip.issuperset(request.ids)]
    if workers is not None:
        yield from (lines for _, lines in workers.map(task, missing))
        return
    if missing:
        answer = task.open()
        yield from map(answer, missing)
