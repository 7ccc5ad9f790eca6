"""``python -m speechprune_ort``: the same as ``speechprune-ort``."""

from speechprune_ort.cli import main

if __name__ == "__main__":
    main()
