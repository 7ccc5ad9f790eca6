"""Audio Flamingo 3: Whisper encoder, average pooling, two-layer projector, Qwen2 text.

Any ``AudioFlamingo3ForConditionalGeneration`` checkpoint. The encoder is Qwen2-Audio's but for the
projector behind it. Transformers cuts a recording at 600 s; here every window is heard. Music
Flamingo, which turns its audio by time, has an architecture of its own and is not known.
"""

from __future__ import annotations

from transformers import AudioFlamingo3ForConditionalGeneration

from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.families.qwen2_audio import load_pooled
from speechprune_ort.export.source import Source

__all__ = ["load"]


def load(source: Source) -> Checkpoint:
    """Load an Audio Flamingo 3 checkpoint.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: a setting of the text model or of the features is not known.
    """
    # Its processor takes one recording for each text.
    return load_pooled(
        "audio_flamingo3", AudioFlamingo3ForConditionalGeneration, source, recordings=1
    )
