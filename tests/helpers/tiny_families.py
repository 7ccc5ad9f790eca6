"""Tiny random checkpoints of Voxtral and DiVA, and how torch answers from them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench.byte_tokenizer import byte_tokenizer
from references import RATE, Family, Reference, Samples
from safetensors.torch import load_file, save_file
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


class OpenedVoxtral:
    """The checkpoint by its own class; what its processor does is written out."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.extract = WhisperFeatureExtractor.from_pretrained(folder)
        cls = VoxtralForConditionalGeneration
        self.model = cls.from_pretrained(folder, dtype=torch.float32).eval()
        self.audio_token: int = self.model.config.audio_token_id

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """What ``generate`` takes."""
        found = self.extract(
            samples,
            sampling_rate=RATE,
            padding=True,
            truncation=False,
            pad_to_multiple_of=WINDOW,
            return_tensors="pt",
        )["input_features"]
        # As VoxtralProcessor does it: the recording as one, cut afterwards.
        features = found.reshape(MEL_BINS, -1, 3000).transpose(0, 1)
        audio = [self.audio_token] * (375 * len(features))
        ahead = self.tokenizer.encode("<s>[INST][BEGIN_AUDIO]", add_special_tokens=False)
        behind = self.tokenizer.encode(f"{question}[/INST]", add_special_tokens=False)
        ids = torch.tensor([[*ahead, *audio, *behind]])
        return {"input_ids": ids, "input_features": features}

    def audio(self, samples: Samples) -> torch.Tensor:
        """(tokens, hidden) audio embeddings."""
        with torch.no_grad():
            found = self.model.get_audio_features(self.inputs(samples, "?")["input_features"])
        heard: torch.Tensor = found.pooler_output
        return heard.reshape(-1, HIDDEN)


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


class OpenedDiVA:
    """Transformers' Whisper and Llama, put together as DiVA's layout says."""

    audio_token = -1

    def __init__(self, folder: Path, text_first: bool) -> None:
        self.folder, self.text_first = folder, text_first
        self.weights = load_file(folder / "model.safetensors")
        cls = WhisperModel
        whisper = cls.from_pretrained(folder / "encoder", dtype=torch.float32).eval()
        parts = {n: v for n, v in self.weights.items() if n.startswith("connector.")}
        whisper.decoder.load_state_dict({n.removeprefix("connector."): v for n, v in parts.items()})
        self.encoder, self.former = whisper.encoder, whisper.decoder
        text = LlamaForCausalLM.from_pretrained(folder / "decoder", dtype=torch.float32)
        self.model = text.eval()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "decoder")

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """Prompt ids, the audio's as -1."""
        # The template has one line ahead of the text: it is its first and its last one.
        parts = f"{HEADER}\n{question}\n{HEADER}\n", ANSWER
        if not self.text_first:
            parts = f"{HEADER}\n\n", f"\n\n{question}{ANSWER}"
        ahead, behind = (self.tokenizer.encode(p, add_special_tokens=False) for p in parts)
        audio = [self.audio_token] * len(self.audio(samples))
        return {"input_ids": torch.tensor([[*ahead, *audio, *behind]])}

    def audio(self, samples: Samples) -> torch.Tensor:
        """(tokens, hidden) audio embeddings."""
        with torch.no_grad():
            heard = self.encoder(_features(self.folder / "encoder", samples)).last_hidden_state
            queries = self.weights["query_tokens"][None].expand(len(heard), -1, -1)
            out = self.former(inputs_embeds=queries, encoder_hidden_states=heard, use_cache=False)
            weight = self.weights["projection.weight"]
            rows = out.last_hidden_state.reshape(-1, len(weight))
            found: torch.Tensor = rows @ weight + self.weights["projection.bias"]
        return found


def _features(folder: Path, samples: Samples) -> torch.Tensor:
    """(windows, mel_bins, 3000), every 30 s window by itself."""
    extract = WhisperFeatureExtractor.from_pretrained(folder)
    windows = [samples[at : at + WINDOW] for at in range(0, len(samples), WINDOW)]
    features: torch.Tensor = extract(windows, sampling_rate=RATE, return_tensors="pt")[
        "input_features"
    ]
    return features


HEADER = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>"
ANSWER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


def whole_windows(tokens: int, samples: int) -> int:
    """Audio tokens of so many samples, where each window has ``tokens`` of them."""
    return tokens * -(-samples // WINDOW)


def opened_voxtral(folder: Path) -> Reference:
    """The checkpoint by its own class."""
    return OpenedVoxtral(folder)


def opened_diva(folder: Path) -> Reference:
    """The checkpoint, put together; the question comes first unless its config says otherwise."""
    order = json.loads((folder / "config.json").read_text()).get("bundle_prompt_order")
    return OpenedDiVA(folder, order != "audio_first")


STATES = (
    Family("voxtral", "voxtral", write_voxtral, opened_voxtral, partial(whole_windows, 375)),
    Family(
        "diva-448",
        "diva",
        lambda folder: write_diva(folder, 1, None),
        opened_diva,
        partial(whole_windows, 448),
        span_tokens=448,
        frame_tokens=16,
    ),
    Family(
        "diva-112",
        "diva",
        lambda folder: write_diva(folder, 4, "audio_first"),
        opened_diva,
        partial(whole_windows, 112),
        span_tokens=112,
        frame_tokens=4,
    ),
)
"""Families that hear every window to its end."""
