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
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file
from user_errors import USER_ERROR

from small_model.assemble import build, gather, library, write_language_model
from small_model.delta import DELTA, read_delta, record_result, write_delta
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
from small_model.training.text import Dialogue, Lexicon
from small_model.training.voices import NEVER_HEARD, Speaker
from small_model.voxtral import as_llama, build_voxtral, stacked_delta
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


def planned(minutes: float, report: Any, check: Any, rate: float) -> Schedule:
    """A schedule with five lines of its curve, or more if it is long."""
    return Schedule(minutes, report, check, max(5, round(minutes / CHECKED_MINUTES)), rate=rate)


def cutter_of(job: data.Job) -> Cutter:
    """Cuts words by the language model's tokens."""
    return Cutter(library.AutoTokenizer.from_pretrained(job.language_model).get_vocab())


def utterances_of(job: data.Job, cutter: Cutter) -> list[Utterance]:
    """All training speech with its letters."""
    shards = data.training_shards(job)
    if not shards:
        raise PartError(f"{job.features} holds no speech: run the command data first.")
    return [u for path in shards for u in utterances(list(read_shard(path)), cutter)]


def made(path: Path, command: str) -> Path:
    """A file that an earlier command makes.

    Raises:
        PartError: it is not there.
    """
    if not path.exists():
        raise PartError(f"{path} is missing: run the command {command} first.")
    return path


def heard_by(work: Path, start: Path | None) -> Path:
    """The file of the trained encoder, of ``--start`` or of WORK.

    Raises:
        PartError: it is not there.
    """
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
    torch.set_num_threads(threads)
    job = job_of(work, spiral, cache)
    cutter, tests = cutter_of(job), data.test_sets(job)
    encoder = whisper_encoder(job.cache, job.report)
    speller = letters.Speller(encoder)
    hidden = library.AutoConfig.from_pretrained(job.language_model).hidden_size
    model = writer.Writer(encoder, speller, hidden)
    if start is not None:
        writer.read_trained(start / DELTA, model, speller)

    def check() -> dict[str, float]:
        writer.write_trained(work / LETTERS, model, speller)
        sets = {name: heard[:PEOPLE_CHECKED] for name, heard in tests.items()}
        return {name: letters.spelling_errors(speller, heard) for name, heard in sets.items()}

    report = curve(work, "letters")
    letters.train(speller, utterances_of(job, cutter), planned(minutes, report, check, rate))
    writer.write_trained(work / LETTERS, model, speller)
    report({name: letters.spelling_errors(speller, heard) for name, heard in tests.items()})


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
    torch.set_num_threads(threads)
    job = job_of(work, spiral, cache)
    cutter, tests = cutter_of(job), data.test_sets(job)
    encoder = whisper_encoder(job.cache, job.report)
    speller = letters.Speller(encoder)
    language_model = library.AutoModelForCausalLM.from_pretrained(job.language_model)
    table = language_model.get_input_embeddings().weight.detach()
    tokenizer = library.AutoTokenizer.from_pretrained(job.language_model)
    texts = utterances_of(job, cutter)
    targets = Targets([one.heard.text for one in texts], cutter, tokenizer, table)
    console.print(
        f"{len(targets.texts)} pieces, {len(targets.words)} words, {len(texts)} recordings"
    )
    aligner = writer.Aligner(cutter, targets)
    model = writer.Writer(encoder, speller, table.shape[1])
    writer.read_trained(start / DELTA if start else work / LETTERS, model, speller)
    if start is None:
        model.start(texts[:: max(1, len(texts) // STARTING_TEXTS)], speller, aligner)

    def errors(heard: Sequence[Heard]) -> dict[str, Any]:
        pieces = writer.writing_errors(model, heard, targets, PENALTIES)
        return {"letters": letters.spelling_errors(speller, heard), "pieces": pieces}

    def check() -> dict[str, Any]:
        writer.write_trained(work / CHECKPOINT, model, speller)
        return {name: errors(heard[:PEOPLE_CHECKED]) for name, heard in tests.items()}

    report = curve(work, "pieces")
    writer.train(model, speller, texts, aligner, planned(minutes, report, check, rate))
    writer.write_trained(work / CHECKPOINT, model, speller)
    report({name: errors(heard) for name, heard in tests.items()})


@app.command(name="stack")
def fit_stack(work: Work, spiral: Spiral, cache: Cache = None, start: Start = None) -> None:
    """Voxtral's projector on the trained encoder, by least squares; WORK/stack.safetensors.

    The encoder is that of ``--start`` or of WORK/pieces.safetensors, and stays as it is.
    """
    torch.set_num_threads(1)
    encoded = heard_by(work, start)
    job = job_of(work, spiral, cache)
    cutter, tests = cutter_of(job), data.test_sets(job)
    texts = utterances_of(job, cutter)
    encoder = whisper_encoder(job.cache, job.report)
    speller = letters.Speller(encoder)
    model_of = library.AutoModelForCausalLM.from_pretrained
    table = model_of(job.language_model).get_input_embeddings().weight.detach()
    tokenizer = library.AutoTokenizer.from_pretrained(job.language_model)
    targets = Targets([one.heard.text for one in texts], cutter, tokenizer, table)
    model = writer.Writer(encoder, speller, table.shape[1])
    writer.read_trained(encoded, model, speller)
    stacker = stacking.Stacker(model)
    stacker.start([one.heard for one in texts[:: max(1, len(texts) // FITTED_TEXTS)]])
    save_file(halves(stacker.tensors()), work / STACK)
    curve(work, "stack")(
        {
            name: writer.writing_errors(stacker, heard[:PEOPLE_CHECKED], targets, PENALTIES)
            for name, heard in tests.items()
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
    torch.set_num_threads(threads)
    kind, encoded = LAYOUTS[layout], None if exact else heard_by(work, start)
    stacks = layout is Name.VOXTRAL and not exact
    stacked = load_file(made(work / STACK, "stack")) if stacks else None
    job = job_of(work, spiral, cache)
    tokenizer = library.AutoTokenizer.from_pretrained(job.language_model)
    cutter = cutter_of(job)
    base = library.AutoModelForCausalLM.from_pretrained(job.language_model, dtype=torch.bfloat16)
    table = base.get_input_embeddings().weight.detach().float()
    reader = Reader(as_llama(base) if layout is Name.VOXTRAL else base, tokenizer, kind)
    rng = random.Random(f"read-{exact}")  # noqa: S311 - no secrets
    torch.manual_seed(int(exact))
    split, lexicon = data.read_texts(job.spiral, tokenizer)
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
    told = [*every_text(dialogues, lexicon), *(facts.fact().sentence for _ in range(FACTS_READ))]
    exact_of = Exact(cutter, Targets(told, cutter, tokenizer, table), rng)
    recordings = reading.exact(texts, asker, exact_of)
    if encoded is None:
        unseen = FactMaker(lexicon.single + lexicon.double, rng, UNSEEN_TEMPLATES)
        asked = reading.asked_exactly(texts, unseen, exact_of, ASKED)
    else:
        encoder = whisper_encoder(job.cache, job.report)
        speller = letters.Speller(encoder)
        model: Any = writer.Writer(encoder, speller, table.shape[1])
        writer.read_trained(encoded, model, speller)
        if stacked is not None:
            model = stacking.Stacker(model)
            model.load(stacked)
            model.hear_silence(Lower(encoder))
        heard = reading.shuffled(lambda: data.training_shards(job), rng)
        ear = reading.Ear(model, speller, cutter)
        recordings = reading.mixed(reading.real(heard, asker, ear, rng), recordings, rng)
        read_aloud = {
            name: [(ear.written([h])[0], h.text) for h in judged.spread(tested, READ_ALOUD)]
            for name, tested in data.test_sets(job).items()
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
    reading.train(reader, recordings, planned(minutes, report, check, rate))


@app.command(name="assemble")
def write_checkpoint(
    work: Work, cache: Cache = None, start: Start = None, layout: Kind = Name.QWEN2_AUDIO
) -> None:
    """Write what training changed, WORK/delta, and the checkpoint folder WORK/merged.

    The encoder is that of ``--start`` or of WORK/pieces.safetensors. WORK/delta takes the place of
    ``scripts/small_model/trained``, beside the card that lies there, when it is to be released.
    With ``--layout voxtral`` the checkpoint folder WORK/voxtral is all that is written.
    """
    read = made(work / LAYOUTS[layout].reader, f"read --layout {layout}")
    below = load_file(heard_by(work, start))
    replaced = {n: v.numpy() for n, v in below.items() if not n.endswith((FACTOR_A, FACTOR_B))}
    factors = {
        f"language_model.{name}": (first.numpy(), second.numpy())
        for name, (first, second) in factors_of(load_file(read)).items()
    }
    if layout is Name.VOXTRAL:
        projector = {n: v.numpy() for n, v in load_file(made(work / STACK, "stack")).items()}
        parts = gather(cache_folder(cache), console.print)
        delta = stacked_delta(replaced, projector, factors, SCALE, [NOTE])
        build_voxtral(parts, delta, work / SECOND, console.print)
        return
    write_delta(work / CHANGED, replaced, factors, SCALE, [NOTE])
    parts = gather(cache_folder(cache), console.print)
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
    speaker = Speaker(None, random.Random(1))  # noqa: S311 - no secrets
    for voice in ("flite:slt", NEVER_HEARD):
        facts = FactMaker(lexicon.single, random.Random("unseen"), UNSEEN_TEMPLATES)  # noqa: S311
        found = judged.answers(model, split.test, speaker, voice, facts, answers)
        keep(f"answers {voice}", found)
        rng = random.Random(1)  # noqa: S311 - no secrets
        texts = rng.sample([s for d in split.test for s in d.sentences], sentences)
        spoken_texts = [spoken(text) for text in texts]
        keep(f"words {voice}", judged.words(model, spoken_texts, speaker, voice))
    if natural is not None:
        keep("people", judged.people(model, natural / "manifest.jsonl", clips))
        keep("orders", judged.orders(model, natural / "orders.jsonl"))


def halves(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same in half precision."""
    return {name: values.half() for name, values in tensors.items()}


def every_text(dialogues: Sequence[Dialogue], lexicon: Lexicon) -> list[str]:
    """All training texts that there are before speech is made."""
    return [*(s for d in dialogues for s in d.sentences), *lexicon.single, *lexicon.double]


def main() -> None:
    """Run a command; what the user can act on is one line and exit 2."""
    try:
        app()
    except SpeechPruneError as error:
        console.print(f"Error: {error}", markup=False)
        raise SystemExit(USER_ERROR) from error
