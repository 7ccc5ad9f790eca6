"""Train the default model, stage by stage; each goes on from what the one before it left.

    python scripts/train_small_model.py data WORK --spiral DIR [--people MANIFEST]
    python scripts/train_small_model.py letters WORK --spiral DIR --minutes 25
    python scripts/train_small_model.py pieces WORK --spiral DIR --minutes 20
    python scripts/train_small_model.py read WORK --spiral DIR --exact --minutes 30
    python scripts/train_small_model.py read WORK --spiral DIR --minutes 150
    python scripts/train_small_model.py assemble WORK
    speechprune-ort export WORK/merged BUNDLE --precision int8
    python scripts/train_small_model.py evaluate BUNDLE FILE --spiral DIR [--natural DIR]
                                                 [--meeting FILE]

A second architecture, Voxtral's layout on the same encoder:

    python scripts/train_small_model.py stack WORK --spiral DIR
    python scripts/train_small_model.py read WORK --spiral DIR --layout voxtral --minutes 60
    python scripts/train_small_model.py assemble WORK --layout voxtral

``pieces`` and ``read`` go on from the released model with ``--start scripts/small_model/trained``,
and ``stack`` and ``assemble`` take its encoder.
Needs ``pip install -e '.[train,test]' hibari-tts==0.2.1 ctranslate2==4.8.5`` and
``apt-get install flite espeak-ng wamerican``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file
from user_errors import USER_ERROR

from small_model.assemble import ENCODER, build, gather, library, write_language_model
from small_model.delta import DELTA, Delta, read_delta, record_of, record_result, write_delta
from small_model.language_model import read_gguf
from small_model.parts import fetch_qwen
from small_model.training import data, letters, reading, stacking, writer
from small_model.training import evaluate as judged
from small_model.training.encoder import whisper_encoder
from small_model.training.facts import UNSEEN_TEMPLATES, FactMaker
from small_model.training.features import Lower
from small_model.training.layouts import LAYOUTS, QWEN2_AUDIO, Name
from small_model.training.loop import Schedule, Utterance, utterances
from small_model.training.questions import Asker
from small_model.training.reader import SCALE, Exact, Reader, factors_of, state_of
from small_model.training.speech import Heard, read_shard
from small_model.training.spelling import Cutter, spoken
from small_model.training.targets import Targets
from small_model.training.text import chance
from small_model.training.voices import NEVER_HEARD, Speaker
from small_model.training.writer import Writer
from small_model.voxtral import as_llama, build_voxtral
from speechprune_ort import SpeechLLM
from speechprune_ort.errors import PartError, SpeechPruneError
from speechprune_ort.files import write_json
from speechprune_ort.models.delta import FACTOR_A, FACTOR_B
from speechprune_ort.models.store import cache_folder

PEOPLE_CHECKED = 60  # clips at each check of a curve; all at the end
PENALTIES = (0.0, 3.0)  # nats for a change of piece
STARTING_TEXTS, FITTED_TEXTS = 60, 300  # of least squares: stage 2, Voxtral's projector
CHECKPOINT = "pieces.safetensors"
MERGED, CHANGED = "merged", "delta"  # folders of the checkpoint, and of what training changed
STACK, SECOND = "stack.safetensors", "voxtral"  # Voxtral's projector, and the checkpoint
NOTE = "the embedded default model is small: expect names and rare words to be wrong"
LETTERS = "letters.safetensors"
FACTS_READ = 3000  # for the words of their forms
ASKED = 16  # questions at each check
READ_ALOUD = 8  # clips of each set, weighed at each check
REPEATED = {"people": 2}  # of them are repeated, too, half a second a word
CHECKED_MINUTES = 12  # between two lines of a curve, where a schedule is long
Work = Annotated[Path, typer.Argument(metavar="WORK", help="Folder for all that training keeps.")]
Spiral = Annotated[Path, typer.Option(help="Folder of SPIRAL's data.jsonl and data_h.jsonl.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for downloads.")]
Minutes = Annotated[float, typer.Option(min=0.1, help="CPU minutes of the schedule.")]
Rate = Annotated[float, typer.Option(min=0, max=1, help="Share of the learning rates.")]
Threads = Annotated[int, typer.Option(min=1, help="Of torch; each one's time counts.")]
Start = Annotated[Path | None, typer.Option(help="Folder of a released delta to go on from.")]
Kind = Annotated[Name, typer.Option("--layout", help="Of the checkpoint.")]

console = Console(stderr=True, highlight=False, soft_wrap=True)
app = typer.Typer(
    help=__doc__, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def job_of(work: Path, spiral: Path, cache: Path | None) -> data.Job:
    """The job, with its language model written."""
    folder, target = cache_folder(cache), work / "language-model"
    if not (target / "config.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        write_language_model(read_gguf(fetch_qwen(folder, console.print)), target)
    return data.Job(folder, work, target, spiral, console.print)


def curve(work: Path, stage: str) -> Any:
    """A reporter that adds lines to ``WORK/curve.jsonl``."""

    def report(line: Mapping[str, Any]) -> None:
        text = json.dumps({"stage": stage, **line})
        console.print(text, markup=False)
        with (work / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    return report


def planned(report: Any, minutes: float, rate: float, check: Any) -> Schedule:
    """A schedule with five lines of its curve, or more if it is long."""
    return Schedule(minutes, report, check, max(5, round(minutes / CHECKED_MINUTES)), rate=rate)


class Stage:
    """What the stages have in common, on so many threads."""

    def __init__(self, work: Path, spiral: Path, cache: Path | None, threads: int) -> None:
        torch.set_num_threads(threads)
        self.job = job_of(work, spiral, cache)
        self.tokenizer = library.AutoTokenizer.from_pretrained(self.job.language_model)
        self.cutter = Cutter(self.tokenizer.get_vocab())

    @cached_property
    def encoder(self) -> Any:
        """Whisper's, with the layers that stage 2 adds."""
        return whisper_encoder(self.job.cache, self.job.report)

    @cached_property
    def tests(self) -> dict[str, list[Heard]]:
        """Speech that is not trained on."""
        return data.test_sets(self.job)

    def writer(self) -> Writer:
        """The encoder with all that stages 1 and 2 add, untrained."""
        config = library.AutoConfig.from_pretrained(self.job.language_model)
        return Writer(self.encoder, config.hidden_size)

    def model(self, **options: Any) -> Any:
        """The language model."""
        return library.AutoModelForCausalLM.from_pretrained(self.job.language_model, **options)

    def targets(self, texts: Sequence[str], model: Any) -> Targets:
        """The pieces and words of texts in the language model's embeddings."""
        table = model.get_input_embeddings().weight.detach()
        return Targets(texts, self.cutter, self.tokenizer, table)

    def utterances(self) -> list[Utterance]:
        """All training speech with its letters."""
        shards = data.training_shards(self.job)
        if not shards:
            raise PartError(f"{self.job.features} holds no speech: run the command data first.")
        return [u for path in shards for u in utterances(list(read_shard(path)), self.cutter)]


def made(path: Path, command: str) -> Path:
    """A file that an earlier command makes, if it is there."""
    if not path.exists():
        raise PartError(f"{path} is missing: run the command {command} first.")
    return path


def heard_by(work: Path, start: Path | None) -> Path:
    """The file of the trained encoder, of ``--start`` or of WORK, if it is there."""
    if start is not None and not (start / DELTA).exists():
        raise PartError(f"{start} has no {DELTA}: give the folder of a delta as --start.")
    return made(start / DELTA if start else work / CHECKPOINT, "pieces")


@app.command(name="data")
def make_data(
    work: Work,
    spiral: Spiral,
    cache: Cache = None,
    shards: Annotated[int, typer.Option(min=1, help="Synthetic shards of 13 minutes.")] = 30,
    people: Annotated[Path | None, typer.Option(help="Manifest of people's recordings.")] = None,
) -> None:
    """Make all speech and store its features, actors in one process and voices in another."""
    job = job_of(work, spiral, cache)
    context = get_context("spawn")
    quiet = replace(job, report=print)
    workers = [
        context.Process(target=data.make_actors, args=(quiet,)),
        context.Process(target=data.make_synthetic, args=(quiet, range(shards))),
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise PartError("Speech could not be made: see the error above.")
    if people is not None:
        data.make_people(job, people)


@app.command(name="letters")
def train_letters(
    work: Work,
    spiral: Spiral,
    cache: Cache = None,
    minutes: Minutes = 25.0,
    start: Start = None,
    rate: Rate = 1.0,
    threads: Threads = 1,
) -> None:
    """Stage 1: letters by CTC on Whisper's upper two layers; WORK/letters.safetensors.

    With ``--start`` the layers above are kept as they are there.
    """
    stage = Stage(work, spiral, cache, threads)
    model = stage.writer()
    if start is not None:
        model.load(start / DELTA)

    def errors(most: int | None = None) -> dict[str, float]:
        model.save(work / LETTERS)
        sets = stage.tests.items()
        return {name: letters.spelling_errors(model.speller, heard[:most]) for name, heard in sets}

    schedule = planned(curve(work, "letters"), minutes, rate, partial(errors, PEOPLE_CHECKED))
    letters.train(model.speller, stage.utterances(), schedule)
    schedule.report(errors())


@app.command(name="pieces")
def train_pieces(
    work: Work,
    spiral: Spiral,
    cache: Cache = None,
    minutes: Minutes = 20.0,
    start: Start = None,
    rate: Rate = 1.0,
    threads: Threads = 1,
) -> None:
    """Stage 2: letters and pieces together, with two added layers; WORK/pieces.safetensors."""
    stage = Stage(work, spiral, cache, threads)
    texts, model = stage.utterances(), stage.writer()
    targets = stage.targets([one.heard.text for one in texts], stage.model())
    console.print(
        f"{len(targets.texts)} pieces, {len(targets.words)} words, {len(texts)} recordings"
    )
    model.load(start / DELTA if start else work / LETTERS)
    if start is None:
        model.start(texts[:: max(1, len(texts) // STARTING_TEXTS)], targets)

    def errors_of(heard: Sequence[Heard]) -> dict[str, Any]:
        pieces = writer.writing_errors(model, heard, targets, PENALTIES)
        return {"letters": letters.spelling_errors(model.speller, heard), "pieces": pieces}

    def errors(most: int | None = None) -> dict[str, Any]:
        model.save(work / CHECKPOINT)
        return {name: errors_of(heard[:most]) for name, heard in stage.tests.items()}

    schedule = planned(curve(work, "pieces"), minutes, rate, partial(errors, PEOPLE_CHECKED))
    writer.train(model, texts, targets, schedule)
    schedule.report(errors())


@app.command(name="stack")
def fit_stack(work: Work, spiral: Spiral, cache: Cache = None, start: Start = None) -> None:
    """Voxtral's projector on the trained encoder, by least squares; WORK/stack.safetensors.

    The encoder is that of ``--start`` or of WORK/pieces.safetensors, and stays as it is.
    """
    encoded = heard_by(work, start)
    stage = Stage(work, spiral, cache, threads=1)
    texts, model = stage.utterances(), stage.writer()
    targets = stage.targets([one.heard.text for one in texts], stage.model())
    model.load(encoded)
    stacker = stacking.Stacker(model)
    stacker.start([one.heard for one in texts[:: max(1, len(texts) // FITTED_TEXTS)]])
    save_file(halves(stacker.tensors()), work / STACK)
    curve(work, "stack")(
        {
            name: writer.writing_errors(stacker, heard[:PEOPLE_CHECKED], targets, PENALTIES)
            for name, heard in stage.tests.items()
        }
    )


@app.command(name="read")
def train_reader(
    work: Work,
    spiral: Spiral,
    cache: Cache = None,
    minutes: Minutes = 40.0,
    exact: Annotated[
        bool, typer.Option("--exact", help="On texts that nobody has spoken.")
    ] = False,
    layout: Kind = Name.QWEN2_AUDIO,
    start: Start = None,
    rate: Rate = 1.0,
    threads: Threads = 1,
) -> None:
    """Stage 3: the language model reads pieces by LoRA; WORK/reader.safetensors.

    It goes on from that file, else from ``--start``. Without ``--exact`` it reads what the encoder
    of ``--start`` or of WORK/pieces.safetensors makes of speech, and some exact texts beside it.
    With ``--layout voxtral`` the file is WORK/reader-voxtral.safetensors, and where neither it nor
    ``--start`` is there, it begins from WORK/reader.safetensors.
    """
    kind, encoded = LAYOUTS[layout], None if exact else heard_by(work, start)
    stacks = layout is Name.VOXTRAL and not exact
    stacked = load_file(made(work / STACK, "stack")) if stacks else None
    stage = Stage(work, spiral, cache, threads)
    base = stage.model(dtype=torch.bfloat16)
    language_model = as_llama(base) if layout is Name.VOXTRAL else base
    reader = Reader(language_model, stage.tokenizer, kind)
    rng = chance(f"read-{exact}")
    torch.manual_seed(int(exact))
    split, lexicon = data.read_texts(spiral, stage.tokenizer)
    dialogues = (*split.align, *split.adapt)
    facts = FactMaker(lexicon.single + lexicon.double, rng)
    texts = reading.Texts(dialogues, lexicon, facts, rng)
    asker = Asker(dialogues, facts, rng)
    saved, other = work / kind.reader, work / QWEN2_AUDIO.reader
    if saved.exists():
        reader.load(load_file(saved))
    elif start is not None:
        reader.load(state_of(load_file(start / DELTA)))
    elif other.exists():
        reader.load(load_file(other))
    told = [s for d in dialogues for s in d.sentences] + [*lexicon.single, *lexicon.double]
    told += [facts.fact().sentence for _ in range(FACTS_READ)]
    exact_of = Exact(stage.targets(told, base), rng)
    recordings = reading.exact(texts, asker, exact_of)
    if encoded is None:
        unseen = FactMaker(lexicon.single + lexicon.double, rng, UNSEEN_TEMPLATES)
        asked = reading.asked_exactly(texts, unseen, exact_of, ASKED)
    else:
        model: Any = stage.writer()
        model.load(encoded)
        if stacked is not None:
            model = stacking.Stacker(model)
            model.load(stacked)
            model.hear_silence(Lower(stage.encoder))
        heard = reading.shuffled(lambda: data.training_shards(stage.job), rng)
        ear = reading.Ear(model, stage.cutter)
        recordings = reading.mixed(reading.real(heard, asker, ear, rng), recordings, rng)
        read_aloud = {
            name: [(ear.written([h])[0], h.text) for h in judged.spread(tested, READ_ALOUD)]
            for name, tested in stage.tests.items()
        }

    def check() -> dict[str, Any]:
        save_file(halves(reader.state()), saved)
        if encoded is None:
            return {"asked": reading.answered(reader, asked)}
        return {
            name: {
                "transcript": reading.surprise(reader, said),
                **reading.repeated(reader, said[: REPEATED.get(name, 0)]),
            }
            for name, said in read_aloud.items()
        }

    report = curve(work, ("read-exact" if exact else "read") + kind.suffix)
    reading.train(reader, recordings, planned(report, minutes, rate, check))


@app.command(name="assemble")
def write_checkpoint(
    work: Work, cache: Cache = None, start: Start = None, layout: Kind = Name.QWEN2_AUDIO
) -> None:
    """Write what training changed, WORK/delta, and the checkpoint folder WORK/merged.

    The encoder is that of ``--start`` or of WORK/pieces.safetensors. WORK/delta takes the place of
    ``scripts/small_model/trained``, beside the card that lies there, when it is to be released.
    With ``--layout voxtral`` the checkpoint folder WORK/voxtral is all that is written.
    """
    read = load_file(made(work / LAYOUTS[layout].reader, f"read --layout {layout}"))
    below = load_file(heard_by(work, start))
    tensors = {n: v for n, v in below.items() if not n.endswith((FACTOR_A, FACTOR_B))}
    if layout is Name.VOXTRAL:
        tensors = {n: v for n, v in tensors.items() if n.startswith(ENCODER)}
        tensors |= load_file(made(work / STACK, "stack"))
    tensors |= factors_of(read)
    delta = Delta({n: v.numpy() for n, v in tensors.items()}, record_of(SCALE, [NOTE]))
    parts = gather(cache_folder(cache), console.print)
    if layout is Name.VOXTRAL:
        build_voxtral(parts, delta, work / SECOND, console.print)
        return
    write_delta(work / CHANGED, delta)
    weights = build(parts, read_delta(work / CHANGED), work / MERGED, True, console.print)
    record_result(work / CHANGED, weights)


@app.command(name="evaluate")
def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="An exported checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file to write.")],
    spiral: Spiral,
    natural: Annotated[Path | None, typer.Option(help="Folder of people's recordings.")] = None,
    meeting: Annotated[Path | None, typer.Option(help="Recording with questions.json.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Of people.")] = 40,
    answers: Annotated[int, typer.Option(min=1, help="Free questions a voice.")] = 30,
    sentences: Annotated[int, typer.Option(min=1, help="To repeat, a voice.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="Of ONNX Runtime.")] = None,
) -> None:
    """What a bundle of the default model makes of speech; needs flite."""
    model = SpeechLLM(bundle, threads=threads)
    tokenizer = library.PreTrainedTokenizerFast(tokenizer_file=str(bundle / "tokenizer.json"))
    split, lexicon = data.read_texts(spiral, tokenizer)
    results: dict[str, Any] = {}

    def keep(name: str, value: dict[str, Any]) -> None:
        results[name] = value
        write_json(out, results)
        shown = {key: found for key, found in value.items() if key != "rows"}
        console.print(json.dumps({name: shown}), markup=False)

    if meeting is not None:
        keep("meeting", judged.meeting(model, meeting))
    speaker = Speaker(None, chance(1))
    for voice in ("flite:slt", NEVER_HEARD):
        facts = FactMaker(lexicon.single, chance("unseen"), UNSEEN_TEMPLATES)
        found = judged.answers(model, split.test, speaker, voice, facts, answers)
        keep(f"answers {voice}", found)
        texts = chance(1).sample([s for d in split.test for s in d.sentences], sentences)
        spoken_texts = [spoken(text) for text in texts]
        keep(f"words {voice}", judged.words(model, spoken_texts, speaker, voice))
    if natural is not None:
        keep("people", judged.people(model, natural / "manifest.jsonl", clips))
        keep("orders", judged.orders(model, natural / "orders.jsonl"))


def halves(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same in half precision."""
    return {name: values.half() for name, values in tensors.items()}


def main() -> None:
    """Run a command; what the user can act on is one line and exit 2."""
    try:
        app()
    except SpeechPruneError as error:
        console.print(f"Error: {error}", markup=False)
        raise SystemExit(USER_ERROR) from error
