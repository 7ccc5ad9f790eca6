#!/usr/bin/env python3
"""Build the embedded default model: what ``small_model/build.py`` says.

python scripts/build_small_model.py OUT [--cache DIR] [--overwrite]
"""

from __future__ import annotations

import typer
from small_model.build import main

if __name__ == "__main__":
    typer.run(main)
