"""Train the next default model, stage by stage; each goes on from what the one before it left.

    python scripts/train_next_model.py data WORK --spiral DIR [--people MANIFEST]
    python scripts/train_next_model.py letters WORK --spiral DIR --minutes 25
    python scripts/train_next_model.py pieces WORK --spiral DIR --minutes 20

On from the checkpoint that lies beside this program, without the stage letters::

    python scripts/train_next_model.py pieces WORK --spiral DIR --start TRAINED.safetensors

Needs ``pip install -e '.[train,test]' hibari-tts==0.2.1 ctranslate2==4.8.5`` and
``apt-get install libflite1 espeak-ng wamerican``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from small_model.errors import SmallModelError
from small_model.parts import cache_folder

from small_model_next import checkpoint, data, letters, writer
from small_model_next.encoder import library, whisper_encoder
from small_model_next.loop import Schedule, Utterance, save, utterances
from small_model_next.parts import fetch_qwen, write_language_model
from small_model_next.speech import Heard, read_shard
from small_model_next.spelling import Cutter, words_of

USER_ERROR = 2
PEOPLE_CHECKED = 60  # clips at each check of a curve; all at the end
PENALTIES = (0.0, 3.0)  # nats for a change of piece
STARTING_TEXTS = 60  # of least squares
CHECKPOINT = "pieces.safetensors"
Work = Annotated[Path, typer.Argument(metavar="WORK", help="Folder for all that training keeps.")]
Spiral = Annotated[Path, typer.Option(help="Folder of SPIRAL's data.jsonl and data_h.jsonl.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for downloads.")]
Minutes = Annotated[float, typer.Option(min=0.1, help="CPU minutes of the schedule.")]
Start = Annotated[Path | None, typer.Option(help="Checkpoint to go on from.")]

console = Console(stderr=True, highlight=False, soft_wrap=True)
app = typer.Typer(
    help=__doc__, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def job_of(work: Path, spiral: Path, cache: Path | None) -> data.Job:
    """The job, with its language model written."""
    folder, target = cache_folder(cache), work / "language-model"
    if not (target / "config.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        write_language_model(fetch_qwen(folder, console.print), target)
    return data.Job(folder, work, target, spiral, console.print)


def curve(work: Path, stage: str) -> Any:
    """A reporter that adds lines to ``WORK/curve.jsonl``."""

    def report(line: Mapping[str, Any]) -> None:
        text = json.dumps({"stage": stage, **line})
        console.print(text, markup=False)
        with (work / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    return report


def cutter_of(job: data.Job) -> Cutter:
    """Cuts words by the language model's tokens."""
    return Cutter(library.AutoTokenizer.from_pretrained(job.language_model).get_vocab())


def utterances_of(job: data.Job, cutter: Cutter) -> list[Utterance]:
    """All training speech with its letters."""
    shards = data.training_shards(job)
    if not shards:
        raise SmallModelError(f"{job.features} holds no speech: run the command data first.")
    return [u for path in shards for u in utterances(list(read_shard(path)), cutter)]


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
    quiet = data.Job(job.cache, job.work, job.language_model, job.spiral, print)
    workers = [
        context.Process(target=data.make_actors, args=(quiet,)),
        context.Process(target=data.make_synthetic, args=(quiet, range(shards), True)),
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SmallModelError("Speech could not be made: see the error above.")
    if people is not None:
        data.make_people(job, people)


@app.command(name="letters")
def train_letters(
    work: Work, spiral: Spiral, cache: Cache = None, minutes: Minutes = 25.0, start: Start = None
) -> None:
    """Stage 1: letters by CTC on Whisper's upper two layers; WORK/letters.pt."""
    torch.set_num_threads(1)
    job = job_of(work, spiral, cache)
    cutter, tests = cutter_of(job), data.test_sets(job)
    speller = letters.Speller(whisper_encoder(job.cache, job.report))
    if start is not None:
        speller.load_state_dict(torch.load(start, map_location="cpu")["speller"])

    def check() -> dict[str, float]:
        save(work / "letters.pt", speller=speller)
        sets = {name: heard[:PEOPLE_CHECKED] for name, heard in tests.items()}
        return {name: letters.spelling_errors(speller, heard) for name, heard in sets.items()}

    report = curve(work, "letters")
    letters.train(speller, utterances_of(job, cutter), Schedule(minutes, report, check))
    save(work / "letters.pt", speller=speller)
    report({name: letters.spelling_errors(speller, heard) for name, heard in tests.items()})


@app.command(name="pieces")
def train_pieces(
    work: Work, spiral: Spiral, cache: Cache = None, minutes: Minutes = 20.0, start: Start = None
) -> None:
    """Stage 2: letters and pieces together, with two added layers; WORK/pieces.safetensors.

    ``--start`` goes on from such a file, also from the one that lies beside this program.
    """
    torch.set_num_threads(1)
    job = job_of(work, spiral, cache)
    cutter, tests = cutter_of(job), data.test_sets(job)
    encoder = whisper_encoder(job.cache, job.report)
    speller = letters.Speller(encoder)
    language_model = library.AutoModelForCausalLM.from_pretrained(job.language_model)
    table = language_model.get_input_embeddings().weight.detach()
    tokenizer = library.AutoTokenizer.from_pretrained(job.language_model)
    texts = utterances_of(job, cutter)
    words = [word for one in texts for word in words_of(one.heard.text)]
    inventory = writer.Inventory.of(words, cutter, tokenizer, table)
    console.print(f"{len(inventory.texts)} pieces, {len(texts)} recordings")
    aligner = writer.Aligner(cutter, inventory)
    if start is None:
        speller.load_state_dict(torch.load(work / "letters.pt", map_location="cpu")["speller"])
    model = writer.Writer(encoder, speller, table.shape[1])
    if start is None:
        model.start(texts[:: max(1, len(texts) // STARTING_TEXTS)], speller, aligner)
    else:
        checkpoint.read(start, model, speller)

    def errors(heard: Sequence[Heard]) -> dict[str, Any]:
        pieces = writer.writing_errors(model, heard, inventory, PENALTIES)
        return {"letters": letters.spelling_errors(speller, heard), "pieces": pieces}

    def check() -> dict[str, Any]:
        checkpoint.write(work / CHECKPOINT, model, speller)
        return {name: errors(heard[:PEOPLE_CHECKED]) for name, heard in tests.items()}

    report = curve(work, "pieces")
    writer.train(model, speller, texts, aligner, Schedule(minutes, report, check))
    checkpoint.write(work / CHECKPOINT, model, speller)
    report({name: errors(heard) for name, heard in tests.items()})


def main() -> None:
    """Run a command; what the user can act on is one line and exit 2."""
    try:
        app(standalone_mode=True)
    except SmallModelError as error:
        console.print(f"Error: {error}", markup=False)
        raise SystemExit(USER_ERROR) from error
