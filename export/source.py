"""Where a checkpoint is read from: what a family's ``load`` is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune_ort.export.adapter_config import Adapter

__all__ = ["Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that was found and may be read.

    Attributes:
        location: hub id or local folder of the weights and of ``config.json``.
        revision: commit on the hub; None for a folder, and for the default branch of what another
            checkpoint refers to.
        trust_remote_code: whether transformers may run code that comes with the checkpoint.
        allow_pickle: whether to take weights from ``.bin`` files where there are no safetensors.
        adapter: adapter to merge into the weights, or None.
    """

    location: str
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    adapter: Adapter | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Keywords that every ``from_pretrained`` of transformers takes."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    @property
    def processor(self) -> str:
        """Hub id or folder of the tokenizer and the feature extractor.

        A fine-tune with tokens of its own carries both beside its adapter.
        """
        if self.adapter is not None and self.adapter.has_processor:
            return str(self.adapter.folder)
        return self.location

    def of(self, location: str) -> Source:
        """Another checkpoint, that this one refers to."""
        return Source(location, None, self.trust_remote_code, self.allow_pickle)

    @property
    def folder(self) -> Path | None:
        """The folder of the weights, or None where they are on the hub."""
        return Path(self.location) if Path(self.location).is_dir() else None
