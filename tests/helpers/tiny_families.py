"""Tiny random checkpoints of the families beside Qwen2-Audio, and how torch answers from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer
from tiny_tekken import write_tekken
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    VoxtralConfig,
    VoxtralEncoderConfig,
    VoxtralForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.integrations.mistral.tokenizer import MistralConverter

MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]", "[AUDIO]", "[BEGIN_AUDIO]", "<pad>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
HEADS, HIDDEN, MEL_BINS = 4, 64, 80
QUERIES, WIDTH = 448, 32
WINDOW = 480_000

Samples = NDArray[np.float32]


def llama(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Settings of a language model whose answers vary from token to token."""
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": HIDDEN // HEADS,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.3,
    }


def write_voxtral(folder: Path, *, tekken: bool = False) -> Path:
    """A Voxtral checkpoint.

    Args:
        folder: to write.
        tekken: whether its tokenizer is a ``tekken.json``, as published.
    """
    torch.manual_seed(3)
    tokenizer = byte_tokenizer(MISTRAL, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if tekken:
        folder.mkdir(parents=True)
        made = MistralConverter(str(write_tekken(folder / "tekken.json"))).converted()
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    config = VoxtralConfig(
        audio_config=VoxtralEncoderConfig(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=4 * WIDTH,
            num_mel_bins=MEL_BINS,
        ),
        text_config=LlamaConfig(**llama(tokenizer)),
        audio_token_id=tokenizer.convert_tokens_to_ids("[AUDIO]"),
    )
    model = VoxtralForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.normal_(std=0.3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    if not tekken:
        tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=MEL_BINS).save_pretrained(folder)
    return folder


def voxtral_ids(folder: Path, samples: Samples, question: str, count: int) -> list[int]:
    """Greedy ids by transformers' own class."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = VoxtralForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    found = WhisperFeatureExtractor.from_pretrained(folder)(
        samples,
        sampling_rate=16_000,
        padding=True,
        truncation=False,
        pad_to_multiple_of=WINDOW,
        return_tensors="pt",
    )["input_features"]
    # As VoxtralProcessor does it: the recording as one, cut afterwards.
    features = found.reshape(MEL_BINS, -1, 3000).transpose(0, 1)
    audio = [model.config.audio_token_id] * (375 * len(features))
    ahead = tokenizer.encode("<s>[INST][BEGIN_AUDIO]", add_special_tokens=False)
    behind = tokenizer.encode(f"{question}[/INST]", add_special_tokens=False)
    ids = torch.tensor([[*ahead, *audio, *behind]])
    out = model.generate(
        input_ids=ids, input_features=features, max_new_tokens=count, do_sample=False
    )
    said: list[int] = out[0, ids.shape[1] :].tolist()
    return said


def write_diva(folder: Path, joined: int, order: str | None) -> Path:
    """A DiVA checkpoint in its published layout, with its two references beside it.

    Args:
        folder: to write.
        joined: outputs of the Q-Former that the linear map takes together, 1 or 4.
        order: ``bundle_prompt_order``, or None to leave it out.
    """
    torch.manual_seed(4 + joined)
    encoder, decoder = folder / "encoder", folder / "decoder"
    tokenizer = byte_tokenizer(
        LLAMA, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    text = LlamaForCausalLM(LlamaConfig(**llama(tokenizer))).eval()
    text.generation_config.eos_token_id = tokenizer.eos_token_id
    text.save_pretrained(decoder)
    tokenizer.save_pretrained(decoder)
    whisper = WhisperModel(
        WhisperConfig(
            d_model=WIDTH,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_layers=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            num_mel_bins=MEL_BINS,
            vocab_size=50,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            init_std=0.2,
        )
    )
    whisper.save_pretrained(encoder)
    WhisperFeatureExtractor(feature_size=MEL_BINS).save_pretrained(encoder)
    # The Q-Former is a copy that went its own way: other weights than the reference's decoder.
    connector = {
        f"connector.{name}": torch.randn_like(value) * 0.2
        for name, value in whisper.decoder.state_dict().items()
    }
    own = {
        "query_tokens": torch.randn(QUERIES, WIDTH),
        "projection.weight": torch.randn(joined * WIDTH, HIDDEN) * 0.3,
        "projection.bias": torch.randn(HIDDEN) * 0.3,
    }
    save_file(connector | own, folder / "model.safetensors")
    config = {
        "architectures": ["DiVAModel"],
        "model_type": "diva",
        "reference_encoder": "encoder",
        "reference_decoder": "decoder",
    }
    if order is not None:
        config["bundle_prompt_order"] = order
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def diva_ids(folder: Path, samples: Samples, prompt: tuple[str, str], count: int) -> list[int]:
    """Greedy ids by transformers' Whisper and Llama, put together as DiVA's layout says.

    Args:
        folder: the checkpoint.
        samples: (samples,) at 16 kHz.
        prompt: text ahead of the audio, and behind it.
        count: ids at most.
    """
    weights = load_file(folder / "model.safetensors")
    whisper = WhisperModel.from_pretrained(folder / "encoder", dtype=torch.float32).eval()
    text = LlamaForCausalLM.from_pretrained(folder / "decoder", dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "decoder")
    parts = {n.removeprefix("connector."): v for n, v in weights.items() if "connector." in n}
    with torch.no_grad():
        heard = whisper.encoder(_features(folder / "encoder", samples)).last_hidden_state
        whisper.decoder.load_state_dict(parts)
        queries = weights["query_tokens"][None].expand(len(heard), -1, -1)
        out = whisper.decoder(inputs_embeds=queries, encoder_hidden_states=heard, use_cache=False)
        weight = weights["projection.weight"]
        rows = out.last_hidden_state.reshape(-1, len(weight))
        audio = rows @ weight + weights["projection.bias"]
        table = text.get_input_embeddings()
        ahead, behind = (
            table(torch.tensor(tokenizer.encode(part, add_special_tokens=False))) for part in prompt
        )
        embeds = torch.cat([ahead, audio, behind])[None]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        said = text.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=count, do_sample=False
        )
    ids: list[int] = said[0].tolist()
    return ids


def _features(folder: Path, samples: Samples) -> torch.Tensor:
    """(windows, mel_bins, 3000), every 30 s window by itself."""
    extract = WhisperFeatureExtractor.from_pretrained(folder)
    windows = [samples[at : at + WINDOW] for at in range(0, len(samples), WINDOW)]
    features: torch.Tensor = extract(windows, sampling_rate=16_000, return_tensors="pt")[
        "input_features"
    ]
    return features


@dataclass(frozen=True)
class Case:
    """A family to be tested.

    Attributes:
        name: for the test's report.
        write: writes the checkpoint.
        ids: greedy ids by torch, of a checkpoint, samples, question and count.
        window_tokens: audio tokens of a window.
        family: that the manifest names.
    """

    name: str
    write: Callable[[Path], Path]
    ids: Callable[[Path, Samples, str, int], list[int]]
    window_tokens: int
    family: str


HEADER = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>"
ANSWER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


def _text_first(folder: Path, samples: Samples, question: str, count: int) -> list[int]:
    # The template has one line ahead of the text: it is its first and its last one.
    return diva_ids(folder, samples, (f"{HEADER}\n{question}\n{HEADER}\n", ANSWER), count)


def _audio_first(folder: Path, samples: Samples, question: str, count: int) -> list[int]:
    return diva_ids(folder, samples, (f"{HEADER}\n\n", f"\n\n{question}{ANSWER}"), count)


CASES = (
    Case("voxtral", write_voxtral, voxtral_ids, 375, "voxtral"),
    Case("diva-448", lambda f: write_diva(f, 1, None), _text_first, 448, "diva"),
    Case("diva-112", lambda f: write_diva(f, 4, "audio_first"), _audio_first, 112, "diva"),
)
