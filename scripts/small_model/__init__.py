"""The embedded default model: from downloaded parts to one checkpoint folder (see README.md)."""
