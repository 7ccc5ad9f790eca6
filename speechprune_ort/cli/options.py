"""Options that several subcommands share, and how their values are read."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.cli.grouped import MadeBy
from speechprune_ort.cli.help import (
    ANSWERING,
    HEARING,
    KEEPING,
    RUNNING,
    SHOWING,
    WORDING,
    given_options,
)
from speechprune_ort.errors import OptionError
from speechprune_ort.methods import METHODS
from speechprune_ort.options import (
    DEFAULT_METHOD,
    AttentionForm,
    DeviceName,
    GenerationOptions,
    LongAudio,
    Positions,
    PruningOptions,
)
from speechprune_ort.wording import Wording

__all__ = [
    "ATTENDING",
    "CUTTING",
    "DRAWING",
    "GENERATED",
    "HEARD",
    "KEPT",
    "WORDED",
    "Address",
    "AllowSilence",
    "Attention",
    "Budget",
    "Bundle",
    "Calibrated",
    "Candidates",
    "Device",
    "Engine",
    "FrameTemperature",
    "Generated",
    "Heard",
    "Keeping",
    "Kept",
    "KeptPositions",
    "LatencyTarget",
    "LongRecordings",
    "MaxSeconds",
    "MemoryBudgetMb",
    "MemoryTargetMb",
    "Method",
    "MethodOption",
    "Plugins",
    "ProviderOption",
    "PruningRate",
    "Samples",
    "ShowEvidence",
    "SingleHead",
    "Threads",
    "Worded",
    "Workers",
    "calibrated",
    "check_engine",
    "load_plugins",
    "own_options",
    "provider_options",
    "pruning_rate_of",
]

GENERATED, HEARD, WORDED = GenerationOptions(), AudioOptions(), Wording()
"""What options make of which none is given."""


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _folder(context: typer.Context, model: Path) -> Path:
    if context.resilient_parsing:  # shell completion, which must touch nothing
        return model
    from speechprune_ort.models.names import bundle_folder

    return bundle_folder(model)


Bundle = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE",
        help="Bundle: a folder that export wrote, the word default, or a name on the hub "
        "(owner/name).",
        callback=_folder,
    ),
]
Device = Annotated[
    DeviceName,
    typer.Option(
        "--device",
        "--provider",
        help="Device that the graphs run on; auto takes what the bundle was exported for.",
        rich_help_panel=RUNNING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads within an operator; by default ONNX Runtime and numpy choose.",
        rich_help_panel=RUNNING,
    ),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Option of the CUDA execution provider; may be repeated.",
        rich_help_panel=RUNNING,
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help="Python file that registers methods; may be repeated.",
        rich_help_panel=KEEPING,
    ),
]

DRAWING = _listed(name for name, found in METHODS.items() if found.random)
"""Methods of the package in which chance decides, as a sentence lists them."""
ATTENDING = _listed(name for name, found in METHODS.items() if found.encoder_attention)
"""Those that read the audio encoder's attention."""
CUTTING = _listed(name for name, found in METHODS.items() if found.decoder_attention)
"""Those that choose behind the decoder's first layers."""

# What is kept of the audio: the fields of PruningOptions.
Method = Annotated[
    str,
    typer.Option(
        help=f"Method that chooses the kept tokens: {', '.join(METHODS)}, or one of a plugin.",
        rich_help_panel=KEEPING,
    ),
]
PruningRate = Annotated[
    str,
    typer.Option(
        help="Share of the budget that is removed, at least 0 and below 1; or auto, to keep as "
        "many tokens as fit the context and the targets.",
        rich_help_panel=KEEPING,
    ),
]
LatencyTarget = Annotated[
    float | None,
    typer.Option(
        help="With --pruning-rate auto: seconds that reading the prompt may take on this device.",
        rich_help_panel=KEEPING,
    ),
]
MemoryTargetMb = Annotated[
    float | None,
    typer.Option(
        help="With --pruning-rate auto: memory that the KV cache and the activations may take, in "
        "1e6 bytes.",
        rich_help_panel=KEEPING,
    ),
]
Budget = Annotated[
    int | None,
    typer.Option(
        help="Tokens that the pruning rate is a share of; by default those of one window of the "
        "model.",
        rich_help_panel=KEEPING,
    ),
]
Candidates = Annotated[
    float | None,
    typer.Option(
        help="Tokens that the first phase leaves to the second for each kept token; by default "
        "the method's own number.",
        rich_help_panel=KEEPING,
    ),
]
FrameTemperature = Annotated[
    float | None,
    typer.Option(
        help="Temperature of phase 1's softmax over seconds; by default the bundle's own.",
        rich_help_panel=KEEPING,
    ),
]
Attention = Annotated[
    AttentionForm | None,
    typer.Option(
        help="Projections that phase 2 uses: their signs (binarized, the default), or their own "
        "values (float).",
        rich_help_panel=KEEPING,
    ),
]
SingleHead = Annotated[
    bool,
    typer.Option(
        "--single-head",
        help="Compute phase 2 over the whole width instead of head by head.",
        rich_help_panel=KEEPING,
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Option of the method itself, such as one of a plugin; may be repeated.",
        rich_help_panel=KEEPING,
    ),
]
KeptPositions = Annotated[
    Positions,
    typer.Option(
        help="Positions of the kept tokens: consecutive (renumbered), or those that they had "
        "before pruning (original).",
        rich_help_panel=KEEPING,
    ),
]

Calibrated = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help="File written by calibrate; its method and candidates are used.",
        rich_help_panel=KEEPING,
    ),
]


@dataclass(frozen=True)
class Keeping:
    """What is kept of the audio, as it is given on the command line."""

    method: Method = DEFAULT_METHOD
    pruning_rate: PruningRate = "0.2"
    latency_target: LatencyTarget = None
    memory_target_mb: MemoryTargetMb = None
    budget: Budget = None
    candidates: Candidates = None
    frame_temperature: FrameTemperature = None
    attention: Attention = None
    single_head: SingleHead = False
    method_option: MethodOption = None
    positions: KeptPositions = "renumbered"
    plugin: Plugins = None
    calibration: Calibrated = None

    @property
    def files(self) -> list[Path]:
        """The files that are read for it."""
        return [*(self.plugin or ()), *([self.calibration] if self.calibration else ())]

    def options(self, bundle: Path, seed: int) -> PruningOptions:
        """The options; plugins are loaded, as the method may be one of theirs.

        Args:
            bundle: the bundle's folder.
            seed: for methods in which chance decides.

        Raises:
            OptionError: a value is out of range, a plugin fails, or the calibration is of another
                bundle.
            DataError: the calibration cannot be read.
        """
        load_plugins(self.plugin)
        method, candidates = calibrated(self.calibration, bundle, self.method, self.candidates)
        return PruningOptions(
            method=method,
            pruning_rate=pruning_rate_of(self.pruning_rate),
            budget=self.budget,
            seed=seed,
            positions=self.positions,
            latency_target=self.latency_target,
            memory_target_mb=self.memory_target_mb,
            **own_options(
                self.method_option,
                candidates=candidates,
                frame_temperature=self.frame_temperature,
                attention=self.attention,
                single_head=self.single_head,
            ),
        )


Kept = Annotated[Keeping, MadeBy(Keeping)]
KEPT = Keeping()


def _wording(
    system: Annotated[
        str | None,
        typer.Option(
            help="System prompt, where the model's chat template has a place for one.",
            rich_help_panel=WORDING,
        ),
    ] = None,
    text_first: Annotated[
        bool | None,
        typer.Option(
            "--text-first/--audio-first",
            help="Whether the question or the audio comes first in the prompt, where the chat "
            "template allows both; by default the template's own order.",
            rich_help_panel=WORDING,
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Language spoken in the recording, such as en, where the chat template has a "
            "place for it.",
            rich_help_panel=WORDING,
        ),
    ] = None,
) -> Wording:
    """What a prompt says besides the question."""
    return Wording(system, text_first, language)


Worded = Annotated[Wording, MadeBy(_wording)]
ShowEvidence = Annotated[
    bool,
    typer.Option(
        "--evidence",
        help="Show the passages that an answer is based on, with their times.",
        rich_help_panel=SHOWING,
    ),
]


def _generation(
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest answer, in tokens.", rich_help_panel=ANSWERING)
    ] = 128,
    temperature: Annotated[
        float,
        typer.Option(
            help="Temperature of sampling; 0 always takes the most likely token.",
            rich_help_panel=ANSWERING,
        ),
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            help="Sample from the smallest set of tokens whose probability reaches this share; has "
            "no effect at temperature 0.",
            rich_help_panel=ANSWERING,
        ),
    ] = 1.0,
    repetition_penalty: Annotated[
        float,
        typer.Option(
            help="What the logits of tokens that were said are divided by; 1 leaves them.",
            rich_help_panel=ANSWERING,
        ),
    ] = 1.0,
    no_repeat_ngram_size: Annotated[
        int,
        typer.Option(
            help="No run of so many tokens stands twice in an answer; 0 allows any.",
            rich_help_panel=ANSWERING,
        ),
    ] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="Text before which the answer ends; may be repeated.", rich_help_panel=ANSWERING
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help=f"Seed for sampling and for the methods {DRAWING}.", rich_help_panel=ANSWERING
        ),
    ] = 0,
) -> GenerationOptions:
    """How the answer is generated."""
    return GenerationOptions(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        seed=seed,
        stop=tuple(stop or ()),
    )


Generated = Annotated[GenerationOptions, MadeBy(_generation)]
Samples = Annotated[
    int,
    typer.Option(
        help="Answers to each question, with the seeds SEED, SEED + 1 and so on; they differ only "
        "at a temperature above 0.",
        rich_help_panel=ANSWERING,
    ),
]

MaxSeconds = Annotated[
    float,
    typer.Option(help="Longest recording that is accepted, in seconds.", rich_help_panel=HEARING),
]
AllowSilence = Annotated[
    bool,
    typer.Option(
        "--allow-silence",
        help="Also answer questions about silent recordings.",
        rich_help_panel=HEARING,
    ),
]


def _audio_options(
    channel: Annotated[
        int | None,
        typer.Option(
            help="Channel to use, counted from 0; by default the mean of all channels.",
            rich_help_panel=HEARING,
        ),
    ] = None,
    max_seconds: MaxSeconds = HEARD.max_seconds,
    max_channels: Annotated[
        int,
        typer.Option(
            help="Largest number of channels that a recording may have.", rich_help_panel=HEARING
        ),
    ] = HEARD.max_channels,
    max_decoded_mb: Annotated[
        float,
        typer.Option(
            help="Largest size of a recording once it is decoded, in 1e6 bytes.",
            rich_help_panel=HEARING,
        ),
    ] = HEARD.max_decoded_mb,
    max_stream_mb: Annotated[
        float,
        typer.Option(
            help="Largest amount to read from a pipe or from standard input, in 1e6 bytes.",
            rich_help_panel=HEARING,
        ),
    ] = HEARD.max_stream_mb,
    silence_dbfs: Annotated[
        float,
        typer.Option(
            help="Level in dB of full scale; a recording with no 20 ms louder than this counts as "
            "silent.",
            rich_help_panel=HEARING,
        ),
    ] = HEARD.silence_dbfs,
    allow_silence: AllowSilence = False,
) -> AudioOptions:
    """How a recording is heard."""
    return AudioOptions(
        channel=channel,
        max_seconds=max_seconds,
        max_channels=max_channels,
        max_decoded_mb=max_decoded_mb,
        max_stream_mb=max_stream_mb,
        silence_dbfs=silence_dbfs,
        allow_silence=allow_silence,
    )


Heard = Annotated[AudioOptions, MadeBy(_audio_options)]
LongRecordings = Annotated[
    LongAudio,
    typer.Option(
        help="What to do with a recording longer than the model's window: encode and prune all of "
        "it (prune), cut it to the window (truncate), or refuse it (error).",
        rich_help_panel=HEARING,
    ),
]
MemoryBudgetMb = Annotated[
    float,
    typer.Option(
        help="Memory for audio embeddings, in 1e6 bytes; the rest goes to a temporary file.",
        rich_help_panel=HEARING,
    ),
]

# Where the work is done.
Engine = Annotated[
    str,
    typer.Option(
        help="Where the work is done: in this process (local) or on a Ray cluster (ray).",
        rich_help_panel=RUNNING,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of the Ray cluster; auto finds one on this machine.", rich_help_panel=RUNNING
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, help="Number of workers on the Ray cluster.", rich_help_panel=RUNNING)
]


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an engine that there is not, and options of Ray without it.

    Raises:
        OptionError: it is neither local nor ray, or an option needs ray.
    """
    if engine not in ("local", "ray"):
        raise OptionError(f"--engine takes local or ray, not {engine!r}.")
    for name, is_given in (
        ("--address", address is not None),
        ("--workers", "workers" in given_options()),
    ):
        if engine == "local" and is_given:
            raise OptionError(f"{name} needs --engine ray: give both, or leave out {name}.")


def load_plugins(paths: list[Path] | None) -> None:
    """Register the methods of the user's plugins.

    Raises:
        OptionError: a file cannot be read, or fails.
    """
    if paths:
        from speechprune_ort.contract.contained import refuse_silent_exits
        from speechprune_ort.methods import load_plugins as load

        refuse_silent_exits()
        load(paths)


def calibrated(
    path: Path | None, bundle: Path, method: str, candidates: float | None
) -> tuple[str, float | None]:
    """Method and candidates: those of a calibration where one is given.

    Args:
        path: what ``calibrate`` wrote, or None.
        bundle: the bundle's folder.
        method: as given on the command line.
        candidates: as given there.

    Raises:
        OptionError: it is not a calibration of this bundle, or another method or candidates are
            given besides.
        DataError: it cannot be read.
    """
    if path is None:
        return method, candidates
    from speechprune_ort.evaluation.calibration import read_calibration

    if candidates is not None:
        raise OptionError("--calibration has candidates of its own: leave out --candidates.")
    found = read_calibration(path, bundle)
    if "method" in given_options() and method != found.method:
        raise OptionError(
            f"{path} is a calibration of {found.method}, not of {method}: leave out --method or "
            "--calibration."
        )
    return found.method, found.candidates


def pruning_rate_of(text: str) -> float | Literal["auto"]:
    """A pruning rate as typed: a number, or ``auto``.

    Raises:
        OptionError: it is neither.
    """
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--pruning-rate takes a number or auto, not {text!r}.") from None


def provider_options(pairs: list[str] | None) -> dict[str, str] | None:
    """``KEY=VALUE`` pairs for the CUDA execution provider; None where there are none.

    Raises:
        OptionError: one is not of this form.
    """
    options = {}
    for pair in pairs or ():
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise OptionError(f"--provider-option takes KEY=VALUE, not {pair!r}.")
        options[key] = value
    return options or None


def own_options(pairs: list[str] | None, **flags: Any) -> dict[str, Any]:
    """Options of methods themselves, by name.

    Args:
        pairs: ``NAME=VALUE``; a value is a number, True, False or None, and otherwise text.
        **flags: those that have an option of their own on the command line; None and False mean
            that it was not given.

    Raises:
        OptionError: a pair is not of this form, or an option is given twice.

    >>> own_options(["step=3", "how=best"], candidates=2.0, single_head=False)
    {'candidates': 2.0, 'step': 3, 'how': 'best'}
    """
    found = {
        name: value for name, value in flags.items() if value is not None and value is not False
    }
    for pair in pairs or ():
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise OptionError(f"--method-option takes NAME=VALUE, not {pair!a}.")
        if name in found:
            raise OptionError(f"The method's option {name} is given twice: give it once.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = text
        plain = value is None or isinstance(value, (bool, int, float, str))
        found[name] = value if plain else text
    return found
