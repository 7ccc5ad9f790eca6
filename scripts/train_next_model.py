#!/usr/bin/env python3
"""Train the next default model: what ``small_model_next/train.py`` says.

python scripts/train_next_model.py letters WORK --spiral DIR
"""

from __future__ import annotations

from small_model_next.train import main

if __name__ == "__main__":
    main()
