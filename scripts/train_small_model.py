#!/usr/bin/env python3
"""Train the embedded default model: what ``small_model/training/train.py`` says.

python scripts/train_small_model.py data WORK --spiral DIR
"""

from __future__ import annotations

from small_model.training.train import main

if __name__ == "__main__":
    main()
