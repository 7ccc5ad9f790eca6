"""A bundle opened for use: a session for each of its graphs, and its tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune_ort.choices import DeviceName, Verify
from speechprune_ort.contract.manifest import TOKENIZER_FILE, Manifest
from speechprune_ort.contract.specs import (
    AUDIO_ENCODER,
    DECODER,
    DECODER_LOWER,
    DECODER_UPPER,
    EMBED_TOKENS,
    FIRST_LAYER_QK,
    ROTARY,
)
from speechprune_ort.errors import BundleError, OptionError
from speechprune_ort.runtime.ort.bundle import verify_files
from speechprune_ort.runtime.ort.device import resolve_device
from speechprune_ort.runtime.ort.session import CheckedSession, open_session
from speechprune_ort.runtime.ort.stream import open_stream
from speechprune_ort.runtime.ort.tokenizer import TextTokenizer
from speechprune_ort.runtime.ort.tokenizer_file import open_tokenizer

__all__ = ["Engine", "Spares"]

DECODERS = (DECODER, DECODER_LOWER, DECODER_UPPER)


class Spares:
    """What answers can reuse: buffers that captured CUDA graphs point to."""

    def __init__(self) -> None:
        self._shelves: dict[tuple[int, ...], list[Any]] = {}

    def shelf(self, *size: int) -> list[Any]:
        """What is ready to be reused in a size."""
        return self._shelves.setdefault(size, [])

    def clear(self) -> None:
        """Release all of it."""
        for shelf in self._shelves.values():
            shelf.clear()
        self._shelves.clear()


class Engine:
    """The graphs of a bundle on one device.

    Args:
        folder: The bundle.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: threads within an operator, numpy's products included; None lets each library
            choose.
        provider_options: options of the CUDA execution provider.
        traces: folder for ONNX Runtime's own traces of every graph, see ``write_traces``; None
            for none, as they cost time.
        verify: when the bundle's files are hashed.

    Attributes:
        folder: as given.
        manifest: the bundle's manifest.
        device: where the graphs run.
        threads: as given.
        tokenizer: the bundle's tokenizer.
        text: the same for what people write; control tokens in it stay plain text.
        spares: what answers can reuse.
        stream: what the decoder runs on, and the embedding of its tokens.

    Raises:
        BundleError: the folder is not a bundle, has another schema, or is incomplete.
        IntegrityError: a file of it was changed.
        DeviceError: the device cannot be used; the message says what is missing.
    """

    def __init__(
        self,
        folder: Path,
        device: DeviceName,
        threads: int | None,
        provider_options: Mapping[str, str] | None,
        traces: Path | None = None,
        verify: Verify = "once",
    ) -> None:
        self.manifest = manifest = Manifest.read(folder)
        self.device = resolve_device(device, manifest.target, provider_options)
        verify_files(folder, manifest, verify)
        self.threads = threads
        self.folder, self._traces = folder, traces
        self.tokenizer = open_tokenizer(folder / TOKENIZER_FILE, manifest.dimensions.vocab)
        # A question must not be able to write control tokens into the prompt.
        self.text = TextTokenizer(self.tokenizer)
        self.spares = Spares()
        self.stream = open_stream(self.device)
        self._sessions: dict[str, CheckedSession] = {}
        self._closed = False
        self._opening = threading.Lock()
        for name in (AUDIO_ENCODER, EMBED_TOKENS, FIRST_LAYER_QK, ROTARY):
            self.session(name)
        # A decoder that is also there in halves is opened as the first question needs it: in
        # memory, either takes all of its weights.
        if manifest.cut_after is None:
            self.session(DECODER)

    def path(self, name: str) -> Path:
        """The file of a graph.

        Raises:
            BundleError: the bundle has no such graph.
        """
        if name not in self.manifest.graphs:
            raise BundleError(f"The bundle {self.folder} has no {name} graph: export it again.")
        return self.folder / self.manifest.graphs[name].file

    def session(self, name: str) -> CheckedSession:
        """The session of a graph, opened on first use.

        Raises:
            BundleError: the bundle has no such graph, or it is not what the manifest says.
            OptionError: the engine was closed.
            OutOfMemoryError: there is not enough memory for it.
        """
        if self._closed:
            raise OptionError(f"The model of {self.folder} is closed: open it again.")
        with self._opening:  # not twice, by two questions
            if name not in self._sessions:
                self._sessions[name] = open_session(
                    self.path(name),
                    self.manifest.graphs[name].spec,
                    self.device,
                    self.threads,
                    spinning=name in DECODERS,
                    stream=self.stream if name in (*DECODERS, EMBED_TOKENS) else None,
                    trace=None if self._traces is None else self._traces / name,
                )
            return self._sessions[name]

    def close(self) -> None:
        """Release every session; what is running goes on to its end, and nothing new begins."""
        self._closed = True
        self._sessions.clear()
        self.spares.clear()

    def write_traces(self) -> list[Path]:
        """End tracing and write one file per graph, ``NAME.json``; they open in Perfetto.

        Returns:
            The files; none where no folder for traces was given.
        """
        written = []
        if self._traces is not None:
            for name, session in self._sessions.items():
                path = self._traces / f"{name}.json"
                Path(session.end_profiling()).replace(path)
                written.append(path)
        return written
