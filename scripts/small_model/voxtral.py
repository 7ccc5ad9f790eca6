"""The second architecture: the same recipe as a checkpoint in Voxtral's layout.

The encoder is that of the default model, which Voxtral's class takes as it is. Four of its frames
make an audio token, 12.5 a second, and the language model is a Llama: Qwen2.5's layers are Llama's
but for three biases, which Llama has where ``attention_bias`` is set, beside a fourth that is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from small_model.assemble import (
    ATTENTION_HEADS,
    ENCODER,
    PROBE,
    PROBE_ANSWER,
    STORED,
    TEXT,
    Parts,
    check_target,
    checkpoint_weights,
    demand,
    library,
    token_id_of,
    write_tokenizer,
    write_weights,
)
from small_model.delta import Array, Delta
from small_model.text import IMAGE_TOKENS, PAD, rename_tokens, token_id
from speechprune_ort.files import whole_folder
from speechprune_ort.models.packages import Report

MODEL_TYPE = "voxtral"
STACKED = 4  # frames of the encoder in an audio token
WINDOW_TOKENS = 375  # of 30 s
PROJECTOR = "multi_modal_projector."

AUDIO_TOKEN = "[AUDIO]"  # noqa: S105 - no password
# The tokens that Mistral's prompts are made of; the begin token and the end token keep their names.
RENAMED_TOKENS: Mapping[str, str] = {
    **dict(zip(IMAGE_TOKENS, (AUDIO_TOKEN, "[BEGIN_AUDIO]", "[/INST]"), strict=True)),
    "<|im_start|>": "[INST]",
}
BEGIN: Mapping[str, str] = {"bos_token": PAD}


def llama_settings(text: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``LlamaConfig`` for the same model as those of ``Qwen2Config``."""
    width = text["hidden_size"] // text["num_attention_heads"]
    return {**text, "attention_bias": True, "head_dim": width}


def output_biases(text: Mapping[str, Any]) -> dict[str, Array]:
    """The biases that Llama has and Qwen2 has not: zero, by the names of Llama's class."""
    return {
        f"layers.{layer}.self_attn.o_proj.bias": np.zeros(text["hidden_size"], np.float32)
        for layer in range(text["num_hidden_layers"])
    }


def as_llama(model: Any) -> Any:
    """``LlamaForCausalLM`` with the weights of a ``Qwen2ForCausalLM``, in the same type."""
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps",
            "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
            "tie_word_embeddings", "rope_parameters", "bos_token_id", "eos_token_id",
            "pad_token_id")  # fmt: skip
    text = {name: getattr(model.config, name) for name in kept}
    with torch.device("meta"):
        llama = library.LlamaForCausalLM(library.LlamaConfig(**llama_settings(text)))
    zeros = {f"model.{n}": torch.from_numpy(v) for n, v in output_biases(text).items()}
    state = {**model.state_dict(), **{n: v.to(model.dtype) for n, v in zeros.items()}}
    llama.load_state_dict(state, strict=True, assign=True)
    # Frequencies of the rotary embedding are no weights: on the meta device there are none.
    llama.model.rotary_emb = type(llama.model.rotary_emb)(llama.config)
    llama.tie_weights()
    return llama.eval()


def voxtral_config(weights: Mapping[str, Array], text: Mapping[str, Any], audio_token: int) -> Any:
    """The ``VoxtralConfig``, with every size of the encoder read off its weights."""
    width, mels, _ = weights[f"{ENCODER}conv1.weight"].shape
    layers = [n for n in weights if n.startswith(ENCODER) and n.endswith(".fc1.weight")]
    encoder = {
        "model_type": "voxtral_encoder",
        "num_mel_bins": mels,
        "hidden_size": width,
        # The class takes this for the width of its stacked frames, too.
        "intermediate_size": weights[layers[0]].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": ATTENTION_HEADS,
        "max_source_positions": weights[f"{ENCODER}embed_positions.weight"].shape[0],
    }
    special = {key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return library.VoxtralConfig(
        audio_config=encoder,
        text_config={
            "model_type": "llama",
            "tie_word_embeddings": False,
            **llama_settings(text),
        },
        audio_token_id=audio_token,
        # The class keeps lm_head apart from the embeddings, so the file holds both.
        tie_word_embeddings=False,
        dtype=STORED,
        architectures=["VoxtralForConditionalGeneration"],
        **special,
    )


def write_voxtral(parts: Parts, delta: Delta, folder: Path, report: Report) -> None:
    """Write every file of the checkpoint into an empty folder.

    There is no file of a processor: Voxtral's is made for Mistral's own tokenizer library. The
    delta is that of the encoder's upper layers, Voxtral's projector and the language model.
    """
    text = parts.language_model.config
    report("Adding what training changed")
    biases = {TEXT + name: values for name, values in output_biases(text).items()}
    weights = checkpoint_weights({**parts.base, **biases}, delta)
    tokenizer = rename_tokens(parts.language_model.tokenizer, RENAMED_TOKENS)
    config = voxtral_config(weights, text, token_id(tokenizer, AUDIO_TOKEN))
    report("Writing the tokenizer, the feature extractor and the weights")
    write_tokenizer(folder, tokenizer, text["max_position_embeddings"], BEGIN)
    mels = config.audio_config.num_mel_bins
    library.WhisperFeatureExtractor(feature_size=mels).save_pretrained(folder)
    write_weights(folder, weights, config, text, delta)


def check_voxtral(folder: Path) -> None:
    """Load the checkpoint by transformers' class and check what must hold."""
    model, info = library.VoxtralForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    mels = model.config.audio_config.num_mel_bins
    probe = torch.tensor([tokenizer(PROBE, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        answer = tokenizer.decode(int(model(input_ids=probe).logits[0, -1].argmax()))
        spoken = model.get_audio_features(torch.zeros(1, mels, 3000)).pooler_output
    ids = [token_id_of(tokenizer, token) for token in RENAMED_TOKENS.values()]
    conditions = {
        f"all weights match the class ({info})": not any(info.values()),
        "each of Mistral's tokens is one token": min(ids) >= 0,
        f"a window is {WINDOW_TOKENS} audio tokens": len(spoken) == WINDOW_TOKENS,
        "audio tokens are finite": bool(spoken.isfinite().all()),
        f"'{PROBE}' continues with '{PROBE_ANSWER}' (found '{answer}')": answer == PROBE_ANSWER,
    }
    demand(conditions)


def build_voxtral(parts: Parts, delta: Delta, out: Path, report: Report) -> None:
    """Write and check the checkpoint next to ``out``, then rename it; an earlier one is replaced.

    Raises:
        PartError: ``out`` is something else, or the checkpoint fails its check; then ``out``
            is as it was.
    """
    check_target(out, True, MODEL_TYPE)
    with whole_folder(out, replace=True) as fresh:
        write_voxtral(parts, delta, fresh, report)
        report("Checking the checkpoint: keys, tokens, a window, one sentence")
        check_voxtral(fresh)
