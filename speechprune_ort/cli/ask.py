"""``speechprune-ort ask``: questions about one recording."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from speechprune_ort.answer_stream import AnswerStream, begin_all
from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.cli.ask_each import ask_each, requests
from speechprune_ort.cli.grouped import grouped
from speechprune_ort.cli.help import HEARING, SHOWING, WORDING
from speechprune_ort.cli.options import (
    GENERATED,
    HEARD,
    KEPT,
    WORDED,
    Bundle,
    Device,
    Generated,
    Heard,
    Kept,
    LongRecordings,
    MemoryBudgetMb,
    ProviderOption,
    Samples,
    ShowEvidence,
    Threads,
    Worded,
    provider_options,
)
from speechprune_ort.cli.quiet import tell_note, tell_warning
from speechprune_ort.errors import AudioError, OptionError
from speechprune_ort.numbers import LONGEST, check_number
from speechprune_ort.options import (
    GenerationOptions,
    LongAudio,
    PruningOptions,
)
from speechprune_ort.outputs import check_out
from speechprune_ort.results import Answer
from speechprune_ort.text import check_question, printable_lines, short_names

if TYPE_CHECKING:
    from speechprune_ort.batch import BatchTask
    from speechprune_ort.explain import Explanation
    from speechprune_ort.model import SpeechLLM
    from speechprune_ort.recording import Recording

__all__ = ["ask", "summary"]

# To a terminal; answers may contain them.
COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LEAST_EVERY = 0.1  # seconds of sound between questions
SHOWN_FROM_S = 60.0  # seconds of audio that are worth a progress bar


@grouped
def ask(
    bundle: Bundle,
    audio: Annotated[
        Path,
        typer.Argument(
            metavar="AUDIO",
            help="Recording: WAV, FLAC, Ogg or MP3; other formats need the extra [media]; - reads "
            "standard input.",
        ),
    ],
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION",
            help="Questions about the recording; with -q, further recordings instead.",
        ),
    ] = None,
    asked: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="Question about every recording; may be repeated."),
    ] = None,
    keeping: Kept = KEPT,
    long_audio: LongRecordings = "prune",
    memory_budget_mb: MemoryBudgetMb = 192.0,
    generation: Generated = GENERATED,
    samples: Samples = 1,
    audio_options: Heard = HEARD,
    device: Device = "auto",
    threads: Threads = None,
    provider_option: ProviderOption = None,
    wording: Worded = WORDED,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Put all recordings into one prompt, where the chat template allows several; "
            "times continue from one recording to the next.",
            rich_help_panel=WORDING,
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Read a WAV from standard input while it is recorded, and answer questions about "
            "what was said so far; without a question here, questions are typed at the terminal.",
            rich_help_panel=HEARING,
        ),
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(
            help="With --live: ask the questions each time this many seconds of sound have come; "
            "by default only at the end.",
            rich_help_panel=HEARING,
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            help="File to write that shows what was kept: a page that plays the recording, or with "
            "--together each of them (.html), a picture (.png) or data (.json). A page shows all "
            "questions; pictures and data get a file for each: out-1.png, out-2.png.",
            rich_help_panel=SHOWING,
        ),
    ] = None,
    transcript: Annotated[
        list[Path] | None,
        typer.Option(
            help='Transcript to show with --explain: a JSON list of {"start", "end", "text"}; with '
            "--together, given once for each recording, in their order.",
            rich_help_panel=SHOWING,
        ),
    ] = None,
    evidence: ShowEvidence = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print answers, kept tokens and timings as JSON.",
            rich_help_panel=SHOWING,
        ),
    ] = False,
) -> None:
    """Answer questions about recordings, each from the audio tokens that matter for it.

    A recording is encoded once. With --json, one question gives an object and several give a list.
    Several recordings, asked about with -q, give a table, or with --json a line for each answer; a
    recording that cannot be used is named, the others are answered, and the exit code is 1.
    """
    from speechprune_ort import SpeechLLM
    from speechprune_ort.batch import BatchTask
    from speechprune_ort.methods import needs_encoder
    from speechprune_ort.recording import check_samples
    from speechprune_ort.runtime.answering.cut_decoder import check_cut
    from speechprune_ort.runtime.answering.prompt import form_of
    from speechprune_ort.runtime.answering.question import check_evidence

    if live:
        _check_live(audio, rest, asked, explain, long_audio, every)
    elif every is not None:
        raise OptionError("--every needs --live: give both, or leave out --every.")
    recordings, questions = _sorted(audio, rest or [], asked or [], typed=live)
    together = together and len(recordings) > 1
    for name, wanted in (("--explain", explain is not None), ("--evidence", evidence)):
        if len(recordings) > 1 and wanted and not together:
            raise OptionError(
                f"{name} takes one recording: ask about each by itself, or about all of them in "
                "one prompt with --together."
            )
    if samples != 1 and (live or len(recordings) > 1):
        raise OptionError(
            "--samples takes one complete recording: leave it out with --live or several "
            "recordings."
        )
    pruning = keeping.options(bundle, generation.seed)
    check_samples(samples, pruning, "--samples")
    if evidence:
        check_evidence(pruning)
    transcripts = transcript or []
    if transcripts and explain is None:
        raise OptionError("--transcript needs --explain: give both, or leave out --transcript.")
    if explain is not None:  # refused before an hour of audio is encoded
        from speechprune_ort.explain import check_ending, read_transcript

        check_ending(explain)
        read = [
            *(Path("/dev/stdin") if path == Path("-") else path for path in recordings),
            *(bundle, *transcripts, *keeping.files),
        ]
        for path in explanation_paths(explain, len(questions) * samples):
            check_out(path, "--explain", read)
        if len(transcripts) not in (0, len(recordings)):
            raise OptionError(
                f"--transcript is given {len(transcripts)} times, with {len(recordings)} to be "
                "shown: give it once for each recording, in their order, or leave it out."
            )
        for path in transcripts:
            read_transcript(path)
    for question in questions:  # and so is what cannot be asked
        check_question(question)
    chosen = provider_options(provider_option)
    if len(recordings) > 1 and not together:
        _ask_each(
            BatchTask(
                bundle=bundle,
                questions=requests(recordings, questions),
                pruning=pruning,
                generation=generation,
                device=device,
                threads=threads,
                provider_options=chosen or {},
                long_audio=long_audio,
                memory_budget_mb=memory_budget_mb,
                audio_options=audio_options,
                wording=wording,
            ),
            as_json,
        )
        return
    model = SpeechLLM(bundle, device, threads, chosen)
    # What the template has no place for is refused at once, as is what the decoder cannot do.
    check_cut(model.engine, pruning.method)
    form_of(model.manifest, wording, len(recordings))
    worded = asdict(wording)
    if live:
        from speechprune_ort.cli.ask_live import ask_live

        def answer(recording: Recording, question: str) -> None:
            sys.stderr.write(f"\n{recording.seconds:.1f} s  {printable_lines(question)}\n")
            asked = recording.worded(**worded)
            stream = asked.stream(question, pruning=pruning, generation=generation)
            finished = asked.with_evidence if evidence else _same
            _print_answer(stream, finished, as_json)

        _print_notes(model.manifest.notes)
        heard = model.live(
            memory_budget_mb=memory_budget_mb,
            encoder_attention=needs_encoder(pruning),
            audio_options=audio_options,
        )
        ask_live(heard, _own_input(), questions, every, answer)
        return
    with ExitStack() as opened:
        sources = [opened.enter_context(_source(path, audio_options)) for path in recordings]
        first, *others = [
            _listen(
                model,
                source,
                long_audio,
                memory_budget_mb,
                needs_encoder(pruning),
                audio_options,
            )
            for source in sources
        ]
        recording = (first.beside(*others) if others else first).worded(**worded)
        for note in recording.notes:
            tell_warning(note)
        streams = (
            [AnswerStream(recording.pieces(questions[0], pruning, generation, recording.timings))]
            if len(questions) == samples == 1
            # With several answers, the time of encoding belongs to none of them alone.
            else _streams(recording, questions, samples, pruning, generation)
        )
        finished = recording.with_evidence if evidence else _same
        if as_json:
            answers = [finished(stream.answer) for stream in streams]
            found = [answer.to_dict() for answer in answers]
            content = found[0] if len(found) == 1 else found
            sys.stdout.write(json.dumps(content, indent=1) + "\n")
        else:
            _print_notes(model.manifest.notes)
            answers = []
            for place, stream in enumerate(streams):
                number, seed_behind = divmod(place, samples)
                if len(questions) > 1 and not seed_behind:
                    sys.stderr.write(f"\n{printable_lines(questions[number])}\n")
                if samples > 1:
                    sys.stderr.write(f"\nseed {generation.seed + seed_behind}\n")
                answers.append(_print_answer(stream, finished))
        if explain is not None:
            from speechprune_ort.explain import explain_all

            shown = explain_all(
                answers,
                sources,
                transcripts=transcripts,
                names=short_names(recordings),
                audio_options=audio_options,
            )
            _write(shown, explain)


def _streams(
    recording: Recording,
    questions: Sequence[str],
    samples: int,
    pruning: PruningOptions,
    generation: GenerationOptions,
) -> list[AnswerStream]:
    """Answers to each question, all of them decoded together."""
    streams = []
    for question in questions:
        if samples == 1:  # an error in a question is raised in its turn
            streams.append(recording.stream(question, pruning=pruning, generation=generation))
        else:
            streams += recording.stream_samples(
                question, samples, pruning=pruning, generation=generation
            )
    begin_all(streams)
    return streams


def _write(shown: Sequence[Explanation], path: Path) -> None:
    """Write what was kept for answers: a page for all of them, or a file for each."""
    from speechprune_ort.explain import write_explanation, write_page

    if path.suffix.lower() == ".html":
        write_page(shown, path)
        return
    for explanation, place in zip(shown, explanation_paths(path, len(shown)), strict=True):
        write_explanation(explanation, place)


def _check_live(
    audio: Path,
    rest: list[str] | None,
    asked: list[str] | None,
    explain: Path | None,
    long_audio: LongAudio,
    every: float | None,
) -> None:
    """Refuse what cannot be done while a recording is still arriving.

    Raises:
        OptionError: something of the kind was asked for.
    """
    if str(audio) != "-" or (rest and asked):
        raise OptionError("--live reads standard input alone: give - as the only recording.")
    if explain is not None or long_audio != "prune":
        raise OptionError(
            "--live cannot be combined with --explain or --long-audio: leave them out."
        )
    if every is not None:
        check_number(
            "--every",
            every,
            lambda number: LEAST_EVERY <= number <= LONGEST,
            f"from {LEAST_EVERY:g} to {LONGEST:.0f} seconds",
        )
    if every is not None and not (rest or asked):
        raise OptionError("--every needs a question: add it after the recording.")


def _sorted(
    audio: Path, rest: list[str], asked: list[str], typed: bool = False
) -> tuple[list[Path], list[str]]:
    """Tell recordings from questions: after ``-q`` questions, all further arguments are recordings.

    Args:
        audio: the first recording.
        rest: the arguments after it.
        asked: questions given with ``-q``.
        typed: whether questions may be typed later, so that none is needed yet.

    Raises:
        OptionError: there is no question, a file stands where a question should, a folder is the
            only recording, or standard input is one of several.
    """
    if _is(audio, Path.is_dir) and not (asked and rest):
        raise OptionError(
            f"{audio} is a folder: give the recordings in it, such as {audio / '*.wav'}, and each "
            'question with -q "Who?".'
        )
    if asked:
        recordings = [audio, *map(Path, rest)]
        if len(recordings) > 1 and Path("-") in recordings:
            raise OptionError(
                "Standard input (-) cannot be one of several recordings: ask about it by itself."
            )
        return recordings, asked
    if not rest and not typed:
        raise OptionError('ask needs a question: add it after the recording, or with -q "Who?".')
    for text in rest:
        if _is(text, Path.is_file):
            raise OptionError(
                f"{text} is a file where a question is expected: to ask about several recordings, "
                'give each question with -q "Who?".'
            )
    return [audio], rest


def _is(path: str | Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(Path(path))
    except (OSError, ValueError):  # no file can have such a name
        return False


def _ask_each(task: BatchTask, as_json: bool) -> None:
    from speechprune_ort.contract.manifest import Manifest

    for note in Manifest.read(task.bundle).notes:
        tell_note(note)
    if ask_each(task, as_json):
        raise typer.Exit(1)


def _source(audio: Path, options: AudioOptions) -> AbstractContextManager[Path | BinaryIO]:
    """The recording as a file that can be read repeatedly; a stream is kept meanwhile."""
    from speechprune_ort.runtime.hearing.streams import rereadable

    if str(audio) != "-":
        return rereadable(audio, options.max_stream_mb)
    return rereadable(_standard_input(), options.max_stream_mb, "Standard input")


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise AudioError("Standard input is closed: pipe a recording into it, or give a file.")
    return sys.stdin.buffer


def _own_input() -> BinaryIO:
    """Standard input by a reader of its own, for a thread that may be reading when all else ends.

    The interpreter closes ``sys.stdin`` at its end, and aborts where a thread is in its reader.
    """
    return open(_standard_input().fileno(), "rb", closefd=False)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        tell_note(note)


def _same(answer: Answer) -> Answer:
    return answer


def _print_answer(
    stream: AnswerStream, finished: Callable[[Answer], Answer], as_json: bool = False
) -> Answer:
    """Print an answer to stdout as it comes, or as a line of JSON, and its summary to stderr."""
    if as_json:
        answer = finished(stream.answer)
        sys.stdout.write(json.dumps(answer.to_dict()) + "\n")
        sys.stdout.flush()
        return answer
    terminal = sys.stdout.isatty()
    for piece in stream:
        sys.stdout.write(COMMANDS.sub("\ufffd", piece) if terminal else piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    answer = finished(stream.answer)
    sys.stderr.write(f"{summary(answer)}\n")
    return answer


def _listen(
    model: SpeechLLM,
    audio: Path | BinaryIO,
    long_audio: LongAudio,
    memory_budget_mb: float,
    attention: bool,
    options: AudioOptions,
) -> Recording:
    """Encode a recording, with a bar and the time left where that takes a while."""
    from speechprune_ort.runtime.hearing.audio import audio_seconds

    seconds = audio_seconds(audio)  # some formats do not say
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True, markup=False)
    hidden = not console.is_terminal or (seconds is not None and seconds < SHOWN_FROM_S)
    with Progress(*columns, console=console, transient=True, disable=hidden) as display:
        task = display.add_task("listening", total=seconds)

        def show(heard: float) -> None:
            minutes = f"{int(heard) // 60}:{int(heard) % 60:02d}"
            display.update(task, completed=heard, description=f"listened to {minutes}")

        return model.listen(
            audio,
            long_audio=long_audio,
            memory_budget_mb=memory_budget_mb,
            encoder_attention=attention,
            progress=show,
            audio_options=options,
        )


def explanation_paths(path: Path, answers: int) -> list[Path]:
    """The files that explanations are written to: a page for all, or a file for each answer.

    >>> [path.name for path in explanation_paths(Path("kept.png"), 2)]
    ['kept-1.png', 'kept-2.png']
    """
    if answers == 1 or path.suffix.lower() == ".html":
        return [path]
    return [path.with_stem(f"{path.stem}-{number + 1}") for number in range(answers)]


def _percent(share: float) -> str:
    """A share as people read it; of an hour of audio, less than 1% may be kept.

    >>> _percent(0.267), _percent(0.0049), _percent(0.0)
    ('27%', '0.5%', '0%')
    """
    return f"{share:.1%}" if 0 < share < 0.01 else f"{share:.0%}"


def summary(answer: Answer) -> str:
    """What was kept and how long each stage took, one line each."""
    pruning, timings = answer.pruning, answer.timings
    cut = answer.seconds_heard < answer.seconds
    given = f"{answer.seconds:.1f} s" if not cut else f"{answer.seconds_heard:.1f} s"
    rest = f", the first of {answer.seconds:.1f} s" if cut else ""
    spans = [f"{span.start:.1f}-{span.end:.1f}" for span in pruning.merged_spans]
    shown = " ".join(spans[:24]) + (f" and {len(spans) - 24} more" if len(spans) > 24 else "")
    kept = (
        f"{pruning.kept} of {pruning.total} tokens ({_percent(pruning.kept_share)} of the "
        f"recording; pruning rate {pruning.options.rate:.3g} of the budget; "
        f"{pruning.options.method})"
    )
    rows = {"audio": f"{given}, {pruning.total} audio tokens{rest}", "kept": kept}
    if pruning.picked:
        rows["picked"] = f"{pruning.kept} tokens, bounded by {pruning.picked}"
    rows["spans"] = f"{shown} s"
    if answer.confidence is not None:
        rows["confidence"] = f"{answer.confidence:.2f}, mean log-probability of a token"
    if answer.evidence is not None:
        found = [
            f"{e.span.start:.1f}-{e.span.end:.1f} s (+{e.support:.1f})" for e in answer.evidence
        ]
        rows["evidence"] = ", ".join(found) or "no passage"
    stages = ", ".join(f"{name} {1000 * s:.0f}" for name, s in timings.seconds.items())
    rows["stages"] = f"{stages} ms"
    rows["time"] = (
        f"first token {timings.first_token:.2f} s, total {timings.total:.2f} s, "
        f"{answer.tokens_per_second:.0f} tokens/s, {answer.device}"
    )
    return "\n".join(f"{name:<10}  {text}" for name, text in rows.items())
