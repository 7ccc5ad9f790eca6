"""Many questions about many recordings: JSONL in, JSONL out, here or on a Ray cluster."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from speechprune_ort.answer_record import ErrorLine, EvidenceRecord, LineRecord, SampleRecord
from speechprune_ort.answer_stream import NO_MEMORY
from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.cancel import Cancel, Limits
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.errors import (
    CancelledError,
    DataError,
    DeadlineError,
    OptionError,
    SpeechPruneError,
)
from speechprune_ort.files import content_of, write_whole
from speechprune_ort.journal import Journal
from speechprune_ort.methods import load_plugins, needs_encoder, sources_of
from speechprune_ort.model import MEMORY_BUDGET_MB, SpeechLLM
from speechprune_ort.options import (
    DeviceName,
    GenerationOptions,
    LongAudio,
    Options,
    PruningOptions,
)
from speechprune_ort.outputs import check_apart
from speechprune_ort.ray_workers import RayWorkers
from speechprune_ort.recording import Recording, check_samples
from speechprune_ort.results import Answer
from speechprune_ort.runtime.answering.cut_decoder import check_cut
from speechprune_ort.runtime.answering.prompt import AS_IS, form_of
from speechprune_ort.runtime.answering.question import check_evidence
from speechprune_ort.text import (
    JsonLine,
    check_path,
    check_question,
    check_text,
    folder_of,
    parse_json,
    read_jsonl,
)
from speechprune_ort.wording import Wording

__all__ = ["BatchTask", "Outcome", "Question", "answer_all", "read_requests", "run_batch"]

ANOTHER = "give another OUT"
OPTIONS = frozenset(
    (
        *Options.__annotations__,
        *(entry.name for part in (AudioOptions, Wording) for entry in fields(part)),
        *("long_audio", "memory_budget_mb", "deadline", "samples", "evidence"),
    )
)
"""Keys that a line may not have: they are the command's, for all lines."""
Failure = SpeechPruneError | MemoryError
FORM = 'write {"audio": "a.wav", "question": "Who?"}'


@dataclass(frozen=True, slots=True)
class Question:
    """A line of a file of requests.

    Attributes:
        name: its id; the number of its line by default.
        line: number of the line.
        audio: path of the recording.
        text: what is asked.
        error: why the line is not a request; empty if it is one.
    """

    name: str
    line: int
    audio: Path = Path()
    text: str = ""
    error: str = ""

    def failed(self, reason: str) -> dict[str, Any]:
        """The output line of a question without an answer."""
        found: dict[str, Any] = msgspec.to_builtins(ErrorLine(self.name, reason))
        return found


def read_requests(path: Path) -> list[Question]:
    """Read lines of ``{"audio": ..., "question": ..., "id": ...}``; the id is optional.

    A line that is not a request becomes an error of its own; the others go on.

    Args:
        path: JSONL, as in ``read_jsonl``; relative audio paths are taken from its folder, or
            from the working folder where it is a pipe.

    Raises:
        DataError: it cannot be read, or holds no request at all.
    """
    folder = folder_of(path)
    found: list[Question] = []
    lines: dict[str, int] = {}
    for line in read_jsonl(path):
        question = _request(line, path, folder)
        if question.name in lines and not question.error:
            reason = (
                f"Line {line.number} of {path} has the id {question.name!a} of line "
                f"{lines[question.name]}: ids must be unique."
            )
            question = Question(question.name, line.number, error=reason)
        if not question.error:
            lines[question.name] = line.number
        found.append(question)
    if not lines:
        raise DataError(found[0].error if found else f"{path} holds no request: {FORM}.")
    return found


def _request(line: JsonLine, path: Path, folder: Path) -> Question:
    entry, name = line.entry, str(line.number)
    if line.error:
        return Question(name, line.number, error=f"{line.error[:-1]}: {FORM}.")
    try:
        for wanted in ("audio", "question"):
            if wanted not in entry:
                raise DataError(f"It has no {wanted!r}: {FORM}.")
        for name_of in sorted(OPTIONS & entry.keys()):
            raise DataError(f"{name_of!r} is an option of the command, for all lines: {FORM}.")
        given = entry.get("id")
        if isinstance(given, bool) or not isinstance(given, (str, int, type(None))):
            raise DataError(f"'id' must be text or a whole number, not {type(given).__name__}.")
        if given is not None:
            name = check_text(str(given), "'id'", DataError)
        text = check_question(entry["question"], "'question'", DataError).strip()
        audio = check_path(entry["audio"], "'audio'")
        return Question(name, line.number, check_path(str(folder / audio), "'audio'"), text)
    except DataError as error:
        return Question(name, line.number, error=f"Line {line.number} of {path}: {error}")


@dataclass(frozen=True)
class BatchTask:
    """Questions and all that their answers depend on; it answers them here or on a worker.

    Attributes:
        bundle: folder of the bundle.
        questions: all of them.
        pruning: options for every answer.
        generation: options for every answer.
        device: device that the bundle runs on.
        threads: number of threads within an operator.
        provider_options: options of the CUDA execution provider.
        plugins: files that register methods of the user's own.
        long_audio: as in ``SpeechLLM.listen``.
        memory_budget_mb: as in ``SpeechLLM.listen``.
        audio_options: as in ``SpeechLLM.listen``.
        deadline: seconds that reading a recording, and each answer, may take; a line that takes
            longer fails.
        wording: what every prompt says besides the question.
        samples: answers to each question, as of ``Recording.sample``.
        evidence: whether lines name the passages that their answers are based on.

    Raises:
        OptionError: the deadline or the number of samples is out of range, or the method has no
            evidence, or no more than one answer, to give.
    """

    bundle: Path
    questions: tuple[Question, ...]
    pruning: PruningOptions
    generation: GenerationOptions
    device: DeviceName = "auto"
    threads: int | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[Path, ...] = ()
    long_audio: LongAudio = "prune"
    memory_budget_mb: float = MEMORY_BUDGET_MB
    audio_options: AudioOptions = field(default_factory=AudioOptions)
    deadline: float | None = None
    wording: Wording = AS_IS
    samples: int = 1
    evidence: bool = False

    def __post_init__(self) -> None:
        Limits(deadline=self.deadline).over()  # refused here, not line by line
        check_samples(self.samples, self.pruning, "samples")
        if self.evidence:
            check_evidence(self.pruning)

    @property
    def uses_cuda(self) -> bool:
        """Whether a worker needs a GPU of its own."""
        return self.device == "cuda"

    def about(self) -> dict[str, Any]:
        """What every answer depends on besides its own question, as plain data."""
        about: dict[str, Any] = {
            "bundle": Manifest.read(self.bundle).digest,
            "pruning": self.pruning.to_dict(),
            "generation": asdict(self.generation),
            "long_audio": self.long_audio,
            "audio": asdict(self.audio_options),
            # Another device or thread count rounds differently: answers are not mixed.
            "device": self.device,
            "threads": self.threads,
        }
        if self.wording != AS_IS:
            about["wording"] = asdict(self.wording)
        if self.samples > 1:
            about["samples"] = self.samples
        if self.evidence:
            about["evidence"] = True
        if self.provider_options:
            about["provider_options"] = dict(self.provider_options)
        if sources := sources_of(self.plugins, [self.pruning.method]):
            about["plugins"] = sources
        return about

    def groups(self) -> list[tuple[Question, ...]]:
        """Runs of neighbouring questions about the same recording, which is encoded once."""
        groups: list[list[Question]] = []
        for question in self.questions:
            if groups and groups[-1][0].audio == question.audio:
                groups[-1].append(question)
            else:
                groups.append([question])
        return [tuple(group) for group in groups]

    def open(self) -> Callable[[int], list[dict[str, Any]]]:
        """Load the bundle; the function answers the group at an index."""
        answers, groups = self.answers(), self.groups()
        return lambda index: list(answers(groups[index]))

    def answers(self) -> Callable[[Sequence[Question]], Iterator[dict[str, Any]]]:
        """Load the bundle; the function answers questions about one recording, line by line."""
        load_plugins(self.plugins)
        options = dict(self.provider_options) or None
        model = SpeechLLM(self.bundle, self.device, self.threads, options)
        form_of(model.manifest, self.wording)  # refused here, not line by line
        check_cut(model.engine, self.pruning.method)
        return lambda group: self._answers(model, group)

    def _answers(self, model: SpeechLLM, group: Sequence[Question]) -> Iterator[dict[str, Any]]:
        try:
            recording = model.listen(
                group[0].audio,
                long_audio=self.long_audio,
                memory_budget_mb=self.memory_budget_mb,
                encoder_attention=needs_encoder(self.pruning),
                audio_options=self.audio_options,
                deadline=self.deadline,
            ).worded(**asdict(self.wording))
        except OptionError:  # of the command, for all lines
            raise
        except (SpeechPruneError, MemoryError) as error:
            yield from (question.failed(_reason(error)) for question in group)
            return
        for question, answers in zip(group, self._asked(recording, group), strict=True):
            if isinstance(answers, tuple):
                yield self._line(question, answers)
            else:
                yield question.failed(_reason(answers))

    def _asked(
        self, recording: Recording, group: Sequence[Question]
    ) -> Iterator[tuple[Answer, ...] | Failure]:
        """The answers to each question, or why there are none."""
        found: Iterable[tuple[Answer, ...] | Failure]
        if self.samples == 1:
            found = (
                (answer,) if isinstance(answer, Answer) else answer
                for answer in recording.ask_many(
                    [question.text for question in group],
                    return_exceptions=True,
                    pruning=self.pruning,
                    generation=self.generation,
                    deadline=self.deadline,
                )
            )
        else:
            found = (self._sampled(recording, question) for question in group)
        for answers in found:
            if self.evidence and isinstance(answers, tuple):
                try:
                    yield tuple(recording.with_evidence(answer) for answer in answers)
                except (SpeechPruneError, MemoryError) as error:
                    yield error
            else:
                yield answers

    def _sampled(self, recording: Recording, question: Question) -> tuple[Answer, ...] | Failure:
        try:
            return recording.sample(
                question.text,
                self.samples,
                pruning=self.pruning,
                generation=self.generation,
                deadline=self.deadline,
            )
        except (SpeechPruneError, MemoryError) as error:
            return error

    def _line(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        answer = answers[0]

        def evidence(of: Answer) -> list[EvidenceRecord] | UnsetType:
            return [found.record() for found in of.evidence or ()] if self.evidence else UNSET

        samples = [
            SampleRecord(
                sample.generation.seed, sample.text, sample.finish_reason, evidence(sample)
            )
            for sample in answers
        ]
        line = LineRecord(
            id=question.name,
            question=question.text,
            text=answer.text,
            finish_reason=answer.finish_reason,
            seconds=round(answer.seconds, 3),
            seconds_heard=round(answer.seconds_heard, 3),
            decoder=answer.decoder,
            notes=list(answer.notes),
            tokens=answer.pruning.total,
            kept=answer.pruning.kept,
            merged_spans=[[span.start, span.end] for span in answer.pruning.merged_spans],
            evidence=evidence(answer),
            samples=samples if self.samples > 1 else UNSET,
        )
        found: dict[str, Any] = msgspec.to_builtins(line)
        return found


def answer_all(
    task: BatchTask, done: Collection[str] = (), workers: RayWorkers | None = None
) -> Iterator[dict[str, Any]]:
    """Answer every question that is not done, in any order; each gives an output line.

    Args:
        task: what to answer; lines that are not requests are left out.
        done: ids that already have answers.
        workers: workers of a Ray cluster; None answers in this process.
    """
    missing = [q for q in task.questions if not q.error and q.name not in done]
    if not missing:
        return
    task = replace(task, questions=tuple(missing))
    groups = task.groups()
    if workers is not None:
        for _, lines in workers.map(task, range(len(groups))):
            yield from lines
        return
    answers = task.answers()
    for group in groups:
        yield from answers(group)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch.

    Attributes:
        answered: questions with an answer.
        failed: lines with an error.
        new: answers and errors that this run added.
    """

    answered: int
    failed: int
    new: int


def run_batch(
    task: BatchTask,
    out: Path,
    requests: Path,
    workers: RayWorkers | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Outcome:
    """Answer all questions into a file, going on where an earlier run stopped.

    Every output line carries a fingerprint of the bundle, the options, the code of a method of the
    user's own, its question, and its whole recording (a stream has none). A line whose fingerprint
    fits is reused; a file with any other answer in it is refused. Lines with an error are tried
    again. Answers are kept in ``OUT.partial`` until ``out`` is written, in the order of the
    questions.

    Args:
        task: what to answer.
        out: JSONL of answers, with one line per request.
        requests: file that the questions come from; it is never written.
        workers: workers of a Ray cluster; None answers in this process.
        progress: called with the number of lines done and of all lines.
        cancel: token by which another thread ends the run and its workers.

    Raises:
        CancelledError: it was cancelled; what is done is kept.
        OptionError: ``out`` or ``OUT.partial`` is a file that is read, lies in a bundle, holds
            other answers, or is not a file of answers at all. It is left as it is.
        DataError: one of them is damaged or cannot be written; what is done is kept.
    """
    about = task.about()
    check_path(out, "OUT", OptionError)
    check_apart(out, "OUT", [])
    out = Path(os.path.realpath(out))  # a link stays, the file that it names is written
    partial = out.with_name(f"{out.name}.partial")
    check_path(partial, "OUT.partial", OptionError)
    for path in (out, partial):
        check_apart(path, "OUT", [requests, task.bundle, *task.plugins])
    _content.cache_clear()
    prints = {_fingerprint(about, question): question for question in task.questions}
    _earlier(out, prints)  # refused before anything is made
    with Limits(cancel).held(), Journal(partial, about, ANOTHER) as journal:
        try:
            _check_known(partial, journal.rows, prints)
            # Read again: another run may have ended in between.
            earlier = {**_earlier(out, prints), **journal.rows}
            done = {key: row for key, row in earlier.items() if "error" not in row}
            new = 0
            keys = {q.name: key for key, q in prints.items() if not q.error}
            total = sum(not q.error for q in task.questions)
            if progress:
                progress(len(done), total)
            for line in answer_all(task, {prints[key].name for key in done}, workers):
                journal.add(keys[line["id"]], line)
                earlier[keys[line["id"]]] = line
                new += 1
                if progress:
                    progress(len(done) + new, total)
            lines = []
            for key, question in prints.items():
                line = question.failed(question.error) if question.error else earlier[key]
                lines.append({**line, "fingerprint": key})
            content = "".join(json.dumps(line) + "\n" for line in lines)
            if new or not out.exists() or out.read_bytes() != content.encode():
                write_whole(out, content)
            journal.discard()
        finally:
            if not journal.rows:
                journal.discard()
    failed = sum("error" in line for line in lines)
    return Outcome(len(lines) - failed, failed, new)


def _earlier(out: Path, prints: Mapping[str, Question]) -> dict[str, dict[str, Any]]:
    """Lines of an earlier run's output, by fingerprint.

    Raises:
        OptionError: it is not such an output, or it belongs to another batch.
    """
    try:
        if not out.exists():
            return {}
        if not stat.S_ISREG(out.stat().st_mode):
            raise OptionError(f"{out} is not a file that answers can be written to: {ANOTHER}.")
        content = out.read_bytes()
    except OSError as error:
        raise OptionError(f"{out} cannot be read ({error.strerror}): {ANOTHER}.") from None
    found: dict[str, dict[str, Any]] = {}
    *whole, _ = content.split(b"\n")
    try:
        for raw in whole:
            line = parse_json(raw)
            found[line.pop("fingerprint")] = dict(line)
        if not found or not all(isinstance(key, str) and "id" in found[key] for key in found):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"{out} holds something other than answers of batch, and is left as it is: {ANOTHER}."
        ) from None
    _check_known(out, found, prints)
    return found


def _check_known(
    path: Path, lines: Mapping[str, Mapping[str, Any]], prints: Mapping[str, Question]
) -> None:
    """Refuse a file with answers that would be lost, as no question asked now has them."""
    foreign = [line for key, line in lines.items() if "error" not in line and key not in prints]
    if foreign:
        raise OptionError(
            f"{path} holds an answer (id {foreign[0].get('id')!a}) to another question or "
            f"recording, or of another bundle or other options: {ANOTHER}."
        )


_content = lru_cache(maxsize=4)(content_of)  # neighbouring lines ask about one recording


def _fingerprint(about: Mapping[str, Any], question: Question) -> str:
    heard = os.path.realpath(question.audio)
    own: list[Any] = [question.name, heard, _content(heard), question.text]
    if question.error:
        own = [question.line, question.error]
    return _digest(json.dumps([about, own], sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _reason(error: Failure) -> str:
    """Why a line has no answer; the others are still answered.

    Raises:
        CancelledError: the caller ended all of them.
    """
    if isinstance(error, CancelledError) and not isinstance(error, DeadlineError):
        raise error
    return NO_MEMORY if isinstance(error, MemoryError) else str(error)
