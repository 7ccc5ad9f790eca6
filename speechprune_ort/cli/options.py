"""Reading of options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from speechprune_ort.errors import OptionError
from speechprune_ort.options import DeviceName

__all__ = [
    "AllowSilence",
    "Candidates",
    "Channel",
    "Device",
    "MaxChannels",
    "MaxDecodedMb",
    "MaxSeconds",
    "MaxStreamMb",
    "Method",
    "Plugins",
    "ProviderOption",
    "SilenceDbfs",
    "Threads",
    "load_plugins",
    "provider_options",
    "pruning_rate_of",
]

Device = Annotated[DeviceName, typer.Option("--device", "--provider", help="Where graphs run.")]
Method = Annotated[str, typer.Option(help="Which tokens are kept: see docs/reference/methods.md.")]
Candidates = Annotated[
    float | None,
    typer.Option(help="Tokens left to the second phase for each one kept; else the method's."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers methods; may be repeated."),
]
Threads = Annotated[int | None, typer.Option(help="Threads within an operator.")]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="For the CUDA provider; may be repeated."),
]

# How a recording is heard: the fields of AudioOptions.
Channel = Annotated[
    int | None, typer.Option(help="Channel to hear, from 0; all of them averaged by default.")
]
MaxSeconds = Annotated[float, typer.Option(help="Refuse longer recordings.")]
MaxChannels = Annotated[int, typer.Option(help="Refuse recordings of more channels.")]
MaxDecodedMb = Annotated[float, typer.Option(help="Refuse what unpacks to more, in 1e6 bytes.")]
MaxStreamMb = Annotated[
    float, typer.Option(help="Refuse pipes and standard input that give more, in 1e6 bytes.")
]
SilenceDbfs = Annotated[
    float, typer.Option(help="A recording without any 20 ms louder than this is silent.")
]
AllowSilence = Annotated[
    bool, typer.Option("--allow-silence", help="Answer about silent recordings, too.")
]


def load_plugins(paths: list[Path] | None) -> None:
    """Make methods of the user's own known.

    Raises:
        OptionError: a file cannot be read, or fails.
    """
    if paths:
        from speechprune_ort.contained import refuse_silent_exits
        from speechprune_ort.methods import load_plugins as load

        refuse_silent_exits()
        load(paths)


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
