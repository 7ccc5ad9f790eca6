"""``audio_encoder.onnx``: log-mel windows to audio embeddings in the language model's space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from speechprune_ort.contract.specs import AUDIO_ENCODER, GraphSpec
from speechprune_ort.export.compared_sound import short_seconds, whole_windows
from speechprune_ort.export.encoder_attention import OPSET, with_cut_keys, with_full_masks
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.graph_file import save, torch_to_ir, with_weights
from speechprune_ort.export.parity import Checked, verify_graph
from speechprune_ort.export.precision import WORDS, Plan
from speechprune_ort.export.work import Graph, Work
from speechprune_ort.sample import SPEECH

__all__ = ["GRAPH", "export_audio_encoder"]


def export_audio_encoder(checkpoint: Checkpoint, plan: Plan, spec: GraphSpec, path: Path) -> None:
    """Trace encoder, pooling and projector; every window of a batch on its own.

    All windows of a run must have one length, see ``with_cut_keys``.

    Args:
        checkpoint: the loaded checkpoint.
        plan: how weights are stored.
        spec: ``audio_encoder``.
        path: graph file to write.
    """
    dims = checkpoint.dimensions
    example = (
        torch.zeros(2, dims.mel_bins, dims.frames),
        torch.tensor([dims.frames, dims.frames // 2]),
    )
    module = checkpoint.audio_encoder
    if plan.encoder != "float16":
        model = with_full_masks(with_cut_keys(torch_to_ir(module, example, spec, OPSET)))
        save(with_weights(model, plan.encoder), path)
        return
    # In place and back: a second copy of a large encoder need not fit in memory.
    module.half()
    if plan.float_dtype == "float32":
        module = Widened(module)
    try:
        save(with_full_masks(torch_to_ir(module, example, spec, OPSET)), path)
    finally:
        module.float()


class Widened(nn.Module):
    """An encoder that computes in half precision and gives float32.

    Args:
        encoder: the encoder.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_features: Tensor, feature_lengths: Tensor) -> Any:
        """What the encoder gives, each of it in float32."""
        found = self.encoder(input_features, feature_lengths)
        return tuple(part.float() for part in found) if isinstance(found, tuple) else found.float()


def _write(work: Work, spec: GraphSpec, path: Path) -> None:
    # Small enough to be widened whole; the language model stays as it is stored.
    work.checkpoint.audio_encoder.float()
    export_audio_encoder(work.checkpoint, work.plan, spec, path)


def _verify(work: Work, spec: GraphSpec, path: Path) -> Checked:
    """Compare on speech and on noise; what torch makes of both is kept for the other graphs."""
    audio, encoder = work.checkpoint.audio, work.checkpoint.audio_encoder
    cases, heard = {}, {}
    for case, (windows, lengths) in _features(work).items():
        inputs: dict[str, NDArray[Any]] = {
            "input_features": windows,
            "feature_lengths": lengths.astype(np.int64),
        }
        with torch.no_grad():
            found = encoder(*(torch.from_numpy(value) for value in inputs.values()))
        outputs = found if isinstance(found, tuple) else (found,)
        named = zip((t.name for t in spec.outputs), outputs, strict=True)
        computed = {name: value.numpy() for name, value in named}
        tokens = [audio.tokens(int(n)) for n in lengths]
        alike = dict.fromkeys(lengths.tolist())
        for length in alike:  # windows of one length at once
            rows, name = lengths == length, f"{case}, {length} frames" if len(alike) > 1 else case
            cases[name] = ({n: v[rows] for n, v in inputs.items()},
                           {n: v[rows] for n, v in computed.items()})  # fmt: skip
            heard[name] = [count for count, row in zip(tokens, rows, strict=True) if row]
        kept = zip(computed["audio_embeds"], tokens, strict=True)
        work.embeds[case] = np.concatenate([window[:count] for window, count in kept])
    checked = verify_graph(path, spec, work.target, cases, work.plan.min_cosine, heard)
    encoder.to("meta")  # nothing needs its weights again
    return checked


def _features(work: Work) -> dict[str, tuple[NDArray[np.float32], NDArray[np.integer]]]:
    """Windows (windows, mel_bins, frames) and how many frames of each are sound, by case."""
    dims, audio = work.checkpoint.dimensions, work.checkpoint.audio
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
    noise = work.random.standard_normal(shape).astype(np.float32)
    whole = whole_windows(audio.window_seconds)
    features = {
        "speech": (mel["input_features"], mel["attention_mask"].sum(-1)),
        "random, whole windows": (noise[:whole], np.array([dims.frames, dims.frames // 3])[:whole]),
    }
    if work.checkpoint.short_windows:

        def padded(sound: int) -> int:
            return audio.padded_frames(sound, dims.frames, dims.window_tokens)[0]

        windows, sound = features["speech"]
        features["speech"] = (windows[:, :, : padded(int(sound.max()))], sound)
        share = short_seconds(audio.window_seconds) / audio.window_seconds
        frames = padded(int(dims.frames * share))
        short = noise[:, :, :frames].copy()
        features["random, short windows"] = (short, np.array([frames - 4, frames // 2]))
    return features


GRAPH = Graph(
    AUDIO_ENCODER,
    lambda work: WORDS[work.plan.encoder],
    _write,
    _verify,
    parameters=lambda checkpoint: sum(p.numel() for p in checkpoint.audio_encoder.parameters()),
    slow=True,
)
