"""The whole export: load, write each graph, verify it, and only then let it be a bundle."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from speechprune_ort.contract.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    FileEntry,
    GraphEntry,
    Manifest,
    PromptPiece,
)
from speechprune_ort.contract.onnx_file import foreign_operators, read_graph
from speechprune_ort.contract.specs import (
    ASSEMBLE,
    AUDIO_ENCODER,
    DECODER,
    EMBED_TOKENS,
    FIRST_LAYER_QK,
    FIRST_LAYER_QK_FLOAT,
    RECEIVED_ATTENTION,
    ROTARY,
    SIMILARITY,
    GraphSpec,
    graph_specs,
)
from speechprune_ort.contract.tokenizer_check import check_tokenizer
from speechprune_ort.errors import BundleError, ExportError
from speechprune_ort.export.atomic_folder import atomic_folder
from speechprune_ort.export.audio_encoder import export_audio_encoder
from speechprune_ort.export.checkpoint_config import Described
from speechprune_ort.export.decoder import export_decoder
from speechprune_ort.export.embed_tokens import export_embed_tokens
from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.export.families.base import Checkpoint, EmbedsAlone
from speechprune_ort.export.first_layer_qk import (
    BinaryProjection,
    FloatProjection,
    export_binarized,
    export_float,
)
from speechprune_ort.export.graph_file import quiet
from speechprune_ort.export.memory import give_back_memory
from speechprune_ort.export.parity import Checked, verify_decoder, verify_graph
from speechprune_ort.export.precision import WORDS, Plan, Target, plan
from speechprune_ort.export.pruning_graphs import (
    attention_reference,
    export_assemble,
    export_received_attention,
    export_similarity,
    similarity_reference,
)
from speechprune_ort.export.request import check_request
from speechprune_ort.export.rotary import export_rotary, rotary_rows
from speechprune_ort.sample import SPEECH
from speechprune_ort.wheels import installed_version

__all__ = ["STEPS", "ExportedGraph", "export_bundle"]

QUESTION = "What is said in the recording?"

Report = Callable[[str], None]
STEPS = 13
"""Steps that an export reports: load, nine graphs, two long verifications, hashes."""

EXACT = 1 - 1e-9
"""Least cosine of graphs that only reorder sums."""


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """A row of the summary.

    Attributes:
        name: of the graph.
        entry: what the manifest says of it.
        bytes: size of the graph and its weights.
        seconds: spent on writing and verifying it.
    """

    name: str
    entry: GraphEntry
    bytes: int
    seconds: float


def export_bundle(
    model: str,
    out: Path,
    *,
    precision: str = "fp32",
    target: str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    encoder_attention: bool = False,
    base: str | None = None,
    allow_pickle: bool = False,
    report: Report = lambda _: None,
) -> list[ExportedGraph]:
    """Turn a checkpoint into a bundle.

    The bundle is written into a temporary folder beside ``out`` and renamed at the very end:
    whatever happens on the way, ``out`` is a whole bundle or what it was before.

    Args:
        model: hub id or local folder; of an adapter (LoRA), its folder, which is merged by peft.
        out: folder to write.
        precision: ``fp32``, ``fp16``, ``int8``, ``w8a8`` or ``int4``; see ``precision``.
        target: ``cpu`` or ``cuda``.
        revision: branch, tag or commit on the hub.
        trust_remote_code: let transformers run code that comes with the checkpoint.
        overwrite: replace ``out`` if it is there.
        encoder_attention: let the audio encoder also give what its last layer attends to, for the
            methods that go by it; it then always costs a little more.
        base: checkpoint that an adapter is merged into; None for the one that it names.
        allow_pickle: take weights from ``.bin`` files where there are no safetensors. Tensors alone
            are read (``torch.load`` with ``weights_only``).
        report: called with the name of each step as it begins.

    Returns:
        One row per graph, in order.

    Raises:
        ExportError: options, checkpoint, folder or disk do not allow it; the message says which.
        ParityError: a graph does not compute what torch computes.
    """
    found, _ = check_request(
        model,
        out,
        precision=precision,
        target=target,
        revision=revision,
        overwrite=overwrite,
        encoder_attention=encoder_attention,
        base=base,
        allow_pickle=allow_pickle,
    )
    chosen = plan(precision, target)
    with _enough_memory(), atomic_folder(out, overwrite) as folder:
        report("load checkpoint")
        with quiet():
            checkpoint = load_checkpoint(
                model, revision, trust_remote_code, base=base, allow_pickle=allow_pickle
            )
        checkpoint = _with_attention(checkpoint, encoder_attention)
        dims = checkpoint.dimensions
        if len(checkpoint.tokenizer) > dims.vocab:
            raise ExportError(
                f"The tokenizer has {len(checkpoint.tokenizer)} tokens and the embedding table "
                f"{dims.vocab} rows: resize the model's embeddings first."
            )
        specs = graph_specs(
            dims, chosen.float_dtype, checkpoint.short_windows, checkpoint.encoder_attention
        )
        work = _Work(checkpoint, chosen, target, specs, folder, report)
        rows = work.run()
        checkpoint.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))

        report("hash files")
        manifest = Manifest(
            family=checkpoint.family,
            source=_source(model, found),
            revision=checkpoint.revision,
            precision=precision,
            target=target,
            float_dtype=chosen.float_dtype,
            dimensions=dims,
            audio=checkpoint.audio,
            prompt=checkpoint.prompt,
            stop_token_ids=checkpoint.stop_token_ids,
            graphs={row.name: row.entry for row in rows},
            files={p.name: _file_entry(p) for p in sorted(folder.iterdir())},
            versions=_versions(),
            notes=checkpoint.notes,
            frame_temperature=checkpoint.frame_temperature,
        )
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        _check_readable(folder)
    return rows


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Say in a sentence that memory ran out, whoever asked for it."""
    words = ("can't allocate memory", "bad_alloc", "Failed to allocate memory", "Cannot allocate")
    try:
        yield
    except Exception as error:  # torch, ONNX Runtime and exporters have classes of their own
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        raise ExportError(
            "Memory ran out during the export: close other programs, lift the limit (ulimit -v), "
            "or use a machine with more; nothing was left behind."
        ) from error


def _check_readable(folder: Path) -> None:
    """Hold what was written against what the runtime accepts of any bundle."""
    try:
        manifest = Manifest.read(folder)
        check_tokenizer(folder / TOKENIZER_FILE)
        for name, entry in manifest.graphs.items():
            foreign = foreign_operators(read_graph(folder / entry.file))
            if foreign:
                raise ValueError(f"{name} uses the operator {foreign[0]}")
    except (BundleError, ValueError) as error:
        raise ExportError(
            f"The runtime would refuse this checkpoint's bundle ({error}): report the checkpoint."
        ) from None


def _with_attention(checkpoint: Checkpoint, wanted: bool) -> Checkpoint:
    """The checkpoint whose audio encoder gives its attention, or does not."""
    if wanted or not checkpoint.encoder_attention:
        return checkpoint
    encoder = EmbedsAlone(checkpoint.audio_encoder).eval()
    return replace(checkpoint, audio_encoder=encoder, encoder_attention=False)


class _Work:
    """The steps of one export, sharing checkpoint, plan and test inputs."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        chosen: Plan,
        target: str,
        specs: dict[str, GraphSpec],
        folder: Path,
        report: Report,
    ) -> None:
        # Small enough to be widened whole; the language model stays as it is stored.
        checkpoint.audio_encoder.float()
        self.checkpoint = checkpoint
        self.plan = chosen
        self.target: Target = "cuda" if target == "cuda" else "cpu"
        self.specs = specs
        self.folder = folder
        self.report = report
        self.random = np.random.default_rng(0)
        self.embeds: dict[str, NDArray[np.float32]] = {}

    def run(self) -> list[ExportedGraph]:
        # The encoder goes first: its verification leaves real audio embeddings for the others.
        encoder = self._graph(AUDIO_ENCODER, self._audio_encoder, WORDS[self.plan.encoder])
        self.checkpoint.audio_encoder.to("meta")  # nothing needs its weights again
        return [
            encoder,
            self._graph(EMBED_TOKENS, self._embed_tokens, WORDS[self.plan.embedding]),
            self._graph(FIRST_LAYER_QK, self._binarized, "signs in int8"),
            self._graph(FIRST_LAYER_QK_FLOAT, self._float, self._float_words()),
            self._graph(SIMILARITY, self._similarity, WORDS["float32"]),
            self._graph(RECEIVED_ATTENTION, self._received_attention, WORDS["float32"]),
            self._graph(ASSEMBLE, self._assemble, WORDS["float32"]),
            self._graph(ROTARY, self._rotary, WORDS[self.plan.float_dtype]),
            self._graph(DECODER, self._decoder, WORDS[self.plan.decoder]),
        ]

    def _float_words(self) -> str:
        return WORDS["float32" if self.plan.embedding == "float32" else "half_stored"]

    def _graph(
        self, name: str, step: Callable[[GraphSpec, Path], Checked], precision: str
    ) -> ExportedGraph:
        self.report(f"export {name}")
        give_back_memory()
        started = time.perf_counter()
        path = self.folder / f"{name}.onnx"
        spec = self.specs[name]
        checked = step(spec, path)
        entry = GraphEntry(
            path.name,
            precision,
            spec,
            checked.parity,
            checked.unverified,
            self._parameters().get(name),
        )
        size = sum(p.stat().st_size for p in self.folder.glob(f"{path.name}*"))
        return ExportedGraph(name, entry, size, time.perf_counter() - started)

    def _parameters(self) -> dict[str, int]:
        """Weights of the large parts, those that a cost is counted from."""
        language_model = self.checkpoint.language_model
        table = language_model.get_input_embeddings().weight
        head = language_model.get_output_embeddings().weight
        # Tied weights are one parameter, and count on both sides.
        shared = table.numel() if head is table else 0
        count = sum(p.numel() for p in language_model.parameters())
        return {
            AUDIO_ENCODER: sum(p.numel() for p in self.checkpoint.audio_encoder.parameters()),
            EMBED_TOKENS: table.numel(),
            DECODER: count - table.numel() + shared,
        }

    def _audio_encoder(self, spec: GraphSpec, path: Path) -> Checked:
        export_audio_encoder(self.checkpoint, self.plan, spec, path)
        self.report(f"verify {spec.name}")
        dims, audio = self.checkpoint.dimensions, self.checkpoint.audio
        speech = soundfile.read(SPEECH, dtype="float32")[0]
        extractor = WhisperFeatureExtractor(
            feature_size=dims.mel_bins,
            sampling_rate=audio.sampling_rate,
            hop_length=audio.hop_length,
            n_fft=audio.n_fft,
            chunk_length=round(audio.window_seconds),
        )
        mel = extractor(
            speech,
            sampling_rate=audio.sampling_rate,
            return_tensors="np",
            return_attention_mask=True,
        )
        shape = (2, dims.mel_bins, dims.frames)
        noise = self.random.standard_normal(shape).astype(np.float32)
        features = {
            "speech": (mel["input_features"], mel["attention_mask"].sum(-1)),
            "random, 2 windows": (noise, np.array([dims.frames, dims.frames // 3])),
        }
        if self.checkpoint.short_windows:
            frames, _ = audio.padded_frames(dims.frames // 3, dims.frames, dims.window_tokens)
            short = noise[:, :, :frames].copy()
            features["random, short windows"] = (short, np.array([frames - 4, frames // 2]))
        session_cases = {}
        for case, (windows, lengths) in features.items():
            inputs = {"input_features": windows, "feature_lengths": lengths.astype(np.int64)}
            with torch.no_grad():
                found = self.checkpoint.audio_encoder(
                    *(torch.from_numpy(value) for value in inputs.values())
                )
            outputs = found if isinstance(found, tuple) else (found,)
            named = zip((t.name for t in spec.outputs), outputs, strict=True)
            computed = {name: value.numpy() for name, value in named}
            session_cases[case] = (inputs, computed)
            expected = computed["audio_embeds"]
            kept = [row[: audio.tokens(int(n))] for row, n in zip(expected, lengths, strict=True)]
            self.embeds[case] = np.concatenate(kept)
        return verify_graph(path, spec, self.target, session_cases, self.plan.min_cosine)

    def _embed_tokens(self, spec: GraphSpec, path: Path) -> Checked:
        table = self.checkpoint.language_model.get_input_embeddings().weight
        export_embed_tokens(table, self.plan, spec, path)
        ids = self.random.integers(0, len(table), 64)
        expected = self._rows(ids)
        case = {"random ids": ({"token_ids": ids}, {"embeds": expected})}
        # A look-up is exact up to the width of what is stored.
        exact = min(self.plan.min_cosine, 0.9999) if self.plan.embedding != "float32" else EXACT
        return verify_graph(path, spec, self.target, case, exact)

    def _qk_cases(
        self,
        reference: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    ) -> dict[str, Any]:
        dtype = np.dtype(self.plan.float_dtype)
        cases = {}
        for case, embeds in self.embeds.items():
            rounded = embeds.astype(dtype)
            with torch.no_grad():
                query, key = reference(torch.from_numpy(rounded.astype(np.float32)))
            cases[case] = ({"audio_embeds": rounded}, {"query": query.numpy(), "key": key.numpy()})
        return cases

    def _binarized(self, spec: GraphSpec, path: Path) -> Checked:
        dims = self.checkpoint.dimensions
        projection = BinaryProjection.of(self.checkpoint.language_model)
        export_binarized(projection, dims, self.target, spec, path)
        cases = self._qk_cases(lambda x: projection.torch_reference(x, dims.head_dim))
        return verify_graph(path, spec, self.target, cases, EXACT)

    def _float(self, spec: GraphSpec, path: Path) -> Checked:
        dims = self.checkpoint.dimensions
        projection = FloatProjection(self.checkpoint.language_model, dims).eval()
        export_float(projection, self.plan, dims, spec, path)
        exact = 0.999999 if self.plan.embedding == "float32" else 0.9999
        return verify_graph(path, spec, self.target, self._qk_cases(projection), exact)

    def _similarity(self, spec: GraphSpec, path: Path) -> Checked:
        export_similarity(spec, path)
        cases = {}
        for case, embeds in self.embeds.items():
            rounded = embeds.astype(self.plan.float_dtype)
            direction = self.random.standard_normal((embeds.shape[1],)).astype(np.float32)
            scores = similarity_reference(torch.from_numpy(rounded), torch.from_numpy(direction))
            inputs = {"audio_embeds": rounded, "direction": direction}
            cases[case] = (inputs, {"scores": scores.numpy()})
        return verify_graph(path, spec, self.target, cases, EXACT)

    def _received_attention(self, spec: GraphSpec, path: Path) -> Checked:
        dims = self.checkpoint.dimensions
        export_received_attention(dims, spec, path)
        projection = BinaryProjection.of(self.checkpoint.language_model)
        cases = {}
        projected = self._qk_cases(lambda x: projection.torch_reference(x, dims.head_dim))
        for case, (_, outputs) in projected.items():
            query, key = (torch.from_numpy(outputs[n][:300]).float() for n in ("query", "key"))
            rows = query[:200]
            received = attention_reference(rows, key).numpy()
            given = {"query": rows.numpy(), "key": key.numpy()}
            cases[case] = (given, {"received": received})
        return verify_graph(path, spec, self.target, cases, EXACT)

    def _assemble(self, spec: GraphSpec, path: Path) -> Checked:
        export_assemble(spec, path)
        cases = {}
        for case, embeds in self.embeds.items():
            rounded = embeds.astype(self.plan.float_dtype)
            indices = np.sort(self.random.choice(len(rounded), len(rounded) // 2, replace=False))
            inputs = {
                "before_embeds": rounded[:3],
                "audio_embeds": rounded,
                "indices": indices,
                "after_embeds": rounded[5:7],
            }
            expected = np.concatenate([rounded[:3], rounded[indices], rounded[5:7]])[None]
            cases[case] = (inputs, {"inputs_embeds": expected})
        return verify_graph(path, spec, self.target, cases, EXACT)

    def _rotary(self, spec: GraphSpec, path: Path) -> Checked:
        model, context = self.checkpoint.language_model, self.checkpoint.dimensions.context
        export_rotary(model, context, spec, path)
        positions = np.append(self.random.integers(0, context, 64), [0, context - 1])
        expected = rotary_rows(model, positions, "float32")
        exact = EXACT if self.plan.float_dtype == "float32" else 0.9999
        case = {"random positions": ({"position_ids": positions}, expected)}
        return verify_graph(path, spec, self.target, case, exact)

    def _decoder(self, spec: GraphSpec, path: Path) -> Checked:
        checkpoint = self.checkpoint
        export_decoder(
            checkpoint.language_model,
            checkpoint.tokenizer,
            self.plan,
            self.target,
            path,
            Path(tempfile.mkdtemp(prefix="decoder-", dir=self.folder)),
        )
        give_back_memory()
        self.report(f"verify {spec.name}")
        # Both within the template: a model that was trained with it need not be stable without.
        audio = {
            "random ids": self._rows(self.random.integers(0, checkpoint.dimensions.vocab, 40)),
            "speech": self.embeds["speech"],
        }
        prompts = {
            f"prompt with {name}": np.concatenate(
                [self._piece(piece, heard) for piece in checkpoint.prompt]
            )
            for name, heard in audio.items()
        }
        return verify_decoder(
            path,
            spec,
            self.target,
            checkpoint.language_model,
            checkpoint.dimensions,
            prompts,
            self.plan.min_cosine,
        )

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows (ids, hidden) of the token embedding."""
        table = self.checkpoint.language_model.get_input_embeddings().weight.detach()
        rows: NDArray[np.float32] = table[torch.from_numpy(ids)].float().numpy()
        return rows

    def _piece(self, piece: PromptPiece, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (tokens, hidden) of a piece of the prompt."""
        if piece.kind == "audio":
            return audio
        text = piece.before + QUESTION + piece.after
        ids = piece.ids or self.checkpoint.tokenizer.encode(text, add_special_tokens=False)
        return self._rows(np.array(ids, np.int64))


def _source(model: str, found: Described) -> str:
    """What the manifest names as the bundle's origin: folders without where they lie."""

    def named(location: str) -> str:
        return Path(location).resolve().name if Path(location).exists() else location

    if found.adapter is None or found.adapter.folder == found.folder:
        return named(model)
    return f"{named(model)} on {named(found.location)}"


def _file_entry(path: Path) -> FileEntry:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(path.stat().st_size, digest)


def _versions() -> dict[str, str]:
    names = (
        "speechprune-ort",
        "torch",
        "transformers",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-genai",
        "onnxruntime-genai-cuda",
    )
    found = {name: installed_version(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}
