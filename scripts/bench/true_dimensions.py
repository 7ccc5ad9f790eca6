"""Checkpoints of the true dimensions of every family, as they would be: shapes without weights.

``MODELS`` has the dimensions of published checkpoints, by a short name. Their ``config.json`` files
and model cards state them; what stands in none of these is the default of the class in
transformers. Tokenizers are not theirs but have one token a byte: a table of 150,000 rows has room
for more.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bench.byte_tokenizer import byte_tokenizer
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    Blip2QFormerConfig,
    GenerationConfig,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    GraniteConfig,
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    Qwen3Config,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

__all__ = ["MODELS", "Drawn", "Model", "Part", "shortened"]

Shapes = Mapping[str, torch.Tensor]
"""Tensors on the device ``meta``, by their names in the files."""
Config = Mapping[str, Any]

END, PAD = "<|im_end|>", "<|endoftext|>"
CHAT = ("<|im_start|>", END, PAD)
LORA_RANK, LORA_MODULES = 64, ["q_proj", "v_proj"]
LAYERS = ("encoder_layers", "num_hidden_layers", "num_layers")
"""Names of the number of layers in configs of audio encoders."""


@dataclass(frozen=True, slots=True)
class Part:
    """Weights of a folder and the config beside them.

    Attributes:
        shapes: the tensors.
        config: content of ``config.json``; None for an adapter, which has its own file.
        folder: relative to the checkpoint.
        file: beginning of the names of the weights' files.
    """

    shapes: Shapes
    config: PreTrainedConfig | Config | None
    folder: str = "."
    file: str = "model"

    def write_config(self, folder: Path) -> None:
        """Write ``config.json``."""
        if isinstance(self.config, PreTrainedConfig):
            self.config.save_pretrained(folder)
        elif self.config is not None:
            (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A checkpoint without weights.

    Attributes:
        parts: its weights, folder by folder.
        save: write what else is in it, given its folder.
    """

    parts: tuple[Part, ...]
    save: tuple[Callable[[Path], object], ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A published checkpoint by its dimensions.

    Attributes:
        draw: makes it from ``text`` and ``audio``.
        text: settings of the language model.
        audio: settings of the audio encoder.
        published: the checkpoint that has them.
    """

    draw: Callable[[Config, Config], Drawn]
    text: Config
    audio: Config
    published: str

    def drawn(self) -> Drawn:
        """The checkpoint without weights."""
        return self.draw(self.text, self.audio)


def shortened(model: Model, layers: int | None = None, encoder_layers: int | None = None) -> Model:
    """A model with fewer layers, of the language model and of the audio encoder; None for all."""
    text, audio = dict(model.text), dict(model.audio)
    if layers is not None:
        text["num_hidden_layers"] = layers
    if encoder_layers is not None:
        audio[next(name for name in LAYERS if name in audio)] = encoder_layers
    return replace(model, text=text, audio=audio)


def _chat_tokenizer(*controls: str, heard: str = "", **names: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with a chat template, for messages of one text or of parts.

    Args:
        *controls: control tokens beside those of the template.
        heard: what stands for a recording among parts.
        **names: of some of the control tokens.
    """
    found = byte_tokenizer((*CHAT, *controls), eos_token=END, pad_token=PAD, **names)
    found.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for part in m['content'] %}{% if part['type'] == 'audio' %}" + heard + "{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return found


def _of_class(cls: Any, config: Any, folder: str = ".") -> Part:
    """A checkpoint as transformers' own class writes it, weights that it shares once."""
    config.dtype = "bfloat16"
    config.architectures = [cls.__name__]
    return Part(_shapes(cls, config), config, folder)


def _shapes(cls: Any, config: Any, prefix: str = "") -> Shapes:
    with torch.device("meta"):
        model = cls(copy.deepcopy(config))
    seen: set[int] = set()
    shapes = {}
    for name, values in model.state_dict(keep_vars=True).items():
        if id(values) not in seen:
            seen.add(id(values))
            shapes[prefix + name] = values
    return shapes


def _ends(tokenizer: PreTrainedTokenizerFast) -> Callable[[Path], object]:
    """Writer of the generation config: what ends an answer."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return lambda folder: GenerationConfig(**ends).save_pretrained(folder)


def _named(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Settings of a language model that are the tokenizer's."""
    return {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}


def qwen2_audio(text: Config, audio: Config) -> Drawn:
    """A Qwen2-Audio."""
    heard = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
    fast = _chat_tokenizer(*heard, heard="".join(heard))
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(**audio),
        text_config=Qwen2Config(**{**text, **_named(fast)}),
        audio_token_index=fast.convert_tokens_to_ids("<|AUDIO|>"),
    )
    features = WhisperFeatureExtractor(feature_size=audio["num_mel_bins"])
    processor = Qwen2AudioProcessor(features, fast, chat_template=fast.chat_template)
    part = _of_class(Qwen2AudioForConditionalGeneration, config)
    return Drawn((part,), (processor.save_pretrained, _ends(fast)))


def qwen2_5_omni(text: Config, audio: Config) -> Drawn:
    """The thinker of a Qwen2.5-Omni, whose tower for pictures is small: it is not exported."""
    heard = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
    fast = _chat_tokenizer(*heard, "<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>", heard="".join(heard))
    ids = fast.convert_tokens_to_ids
    head = text["hidden_size"] // text["num_attention_heads"]
    positions = {
        "rope_type": "default",
        "rope_theta": 1_000_000.0,
        "mrope_section": [head // 8, 3 * head // 16, 3 * head // 16],
    }
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**audio, "output_dim": text["hidden_size"]},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": text["hidden_size"],
            "fullatt_block_indexes": [0],
        },
        text_config={**text, **_named(fast), "rope_parameters": positions},
        audio_token_index=ids("<|AUDIO|>"),
        image_token_index=ids("<|IMAGE|>"),
        video_token_index=ids("<|VIDEO|>"),
        audio_start_token_id=ids("<|audio_bos|>"),
        audio_end_token_id=ids("<|audio_eos|>"),
        vision_start_token_id=ids("<|vision_bos|>"),
    )
    features = WhisperFeatureExtractor(feature_size=audio["num_mel_bins"], chunk_length=300)
    part = _of_class(Qwen2_5OmniThinkerForConditionalGeneration, config)
    return Drawn((part,), (fast.save_pretrained, features.save_pretrained, _ends(fast)))


def audio_flamingo_3(text: Config, audio: Config) -> Drawn:
    """An Audio Flamingo 3."""
    fast = _chat_tokenizer("<sound>", heard="<sound>")
    config = AudioFlamingo3Config(
        audio_config=dict(audio),
        text_config=Qwen2Config(**{**text, **_named(fast)}),
        audio_token_id=fast.convert_tokens_to_ids("<sound>"),
    )
    features = WhisperFeatureExtractor(feature_size=audio["num_mel_bins"])
    processor = AudioFlamingo3Processor(features, fast, chat_template=fast.chat_template)
    part = _of_class(AudioFlamingo3ForConditionalGeneration, config)
    return Drawn((part,), (processor.save_pretrained, _ends(fast)))


def qwen3_asr(text: Config, audio: Config) -> Drawn:
    """A Qwen3-ASR."""
    begin, pad, end = "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"
    fast = _chat_tokenizer(
        begin,
        pad,
        end,
        "<asr_text>",
        heard=begin + pad + end,
        extra_special_tokens={
            "audio_token": pad, "audio_bos_token": begin, "audio_eos_token": end,
        },
    )  # fmt: skip
    config = Qwen3ASRConfig(
        audio_config={**audio, "output_dim": text["hidden_size"]},
        text_config=Qwen3Config(**{**text, **_named(fast)}),
        audio_token_id=fast.convert_tokens_to_ids(pad),
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    features = Qwen3ASRFeatureExtractor(feature_size=audio["num_mel_bins"])
    processor = Qwen3ASRProcessor(features, fast, chat_template=fast.chat_template)
    part = _of_class(Qwen3ASRForConditionalGeneration, config)
    return Drawn((part,), (processor.save_pretrained, _ends(fast)))


def glm_asr(text: Config, audio: Config) -> Drawn:
    """A GLM-ASR."""
    begin, pad, end = "<|begin_of_audio|>", "<|pad|>", "<|end_of_audio|>"
    fast = _chat_tokenizer(begin, pad, end, heard=begin + pad + end)
    config = GlmAsrConfig(
        audio_config=dict(audio),
        text_config=LlamaConfig(**{**text, **_named(fast)}),
        audio_token_id=fast.convert_tokens_to_ids(pad),
    )
    features = WhisperFeatureExtractor(feature_size=audio["num_mel_bins"])
    processor = GlmAsrProcessor(features, fast, chat_template=fast.chat_template)
    part = _of_class(GlmAsrForConditionalGeneration, config)
    return Drawn((part,), (processor.save_pretrained, _ends(fast)))


def granite_speech(text: Config, audio: Config) -> Drawn:
    """A Granite Speech, with the LoRA that lies beside its weights."""
    fast = _chat_tokenizer("<|audio|>")
    width = audio["hidden_dim"]
    config = GraniteSpeechConfig(
        encoder_config=dict(audio),
        projector_config=Blip2QFormerConfig(
            hidden_size=width,
            encoder_hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=width // 64,
            num_hidden_layers=2,
            cross_attention_frequency=1,
        ),
        text_config=GraniteConfig(**{**text, **_named(fast)}),
        audio_token_index=fast.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=True,
    )
    features = {
        "sampling_rate": 16_000,
        "melspec_kwargs": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80},
        "projector_window_size": config.window_size,
        "projector_downsample_rate": config.downsample_rate,
    }
    lora = {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "r": LORA_RANK,
        "lora_alpha": LORA_RANK // 2,
        "target_modules": LORA_MODULES,
    }
    part = _of_class(GraniteSpeechForConditionalGeneration, config)
    adapter = Part(_lora_of(part.shapes, LORA_MODULES), None, file="adapter_model")
    return Drawn(
        (part, adapter),
        (
            fast.save_pretrained,
            _ends(fast),
            _json("preprocessor_config.json", features),
            _json("adapter_config.json", lora),
        ),
    )


def _lora_of(shapes: Shapes, modules: Iterable[str]) -> Shapes:
    """The two factors of every matrix of the language model that a LoRA changes."""
    found = {}
    endings = tuple(f"{name}.weight" for name in modules)
    for name, matrix in shapes.items():
        if "language_model." in name and name.endswith(endings):
            rows, columns = matrix.shape
            stem = "base_model.model." + name.removesuffix(".weight")
            for factor, shape in (("A", (LORA_RANK, columns)), ("B", (rows, LORA_RANK))):
                found[f"{stem}.lora_{factor}.weight"] = torch.empty(shape, device="meta")
    return found


def _json(name: str, content: Config) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def voxtral(text: Config, audio: Config) -> Drawn:
    """A Voxtral."""
    controls = ("<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[AUDIO]", "[BEGIN_AUDIO]")
    begin, end, pad, *_ = controls
    fast = byte_tokenizer(controls, bos_token=begin, eos_token=end, pad_token=pad)
    config = VoxtralConfig(
        audio_config=dict(audio),
        text_config=LlamaConfig(**{**text, **_named(fast)}),
        audio_token_id=fast.convert_tokens_to_ids("[AUDIO]"),
    )
    features = WhisperFeatureExtractor(feature_size=audio["num_mel_bins"])
    part = _of_class(VoxtralForConditionalGeneration, config)
    return Drawn((part,), (fast.save_pretrained, features.save_pretrained, _ends(fast)))


def _whisper(audio: Config) -> WhisperConfig:
    """The whole config of a Whisper, its decoder as wide and, unless stated, as deep."""
    settings = {
        "decoder_layers": audio["encoder_layers"],
        "decoder_attention_heads": audio["encoder_attention_heads"],
        "decoder_ffn_dim": audio["encoder_ffn_dim"],
    }
    return WhisperConfig(**{**settings, **audio})


def ultravox(text: Config, audio: Config) -> Drawn:
    """An Ultravox of version 0.4, its encoder and its language model in one folder."""
    fast = _chat_tokenizer("<|audio|>")
    encoder, stack, width = _whisper(audio), 8, min(4096, 2 * text["hidden_size"])
    language = LlamaConfig(**{**text, **_named(fast)})
    stacked = stack * encoder.d_model
    projector = {
        "ln_pre": (stacked,),
        "linear_1": (width, stacked),
        "linear_2": (text["hidden_size"], width // 2),
        "ln_post": (text["hidden_size"],),
    }
    shapes = {
        f"multi_modal_projector.{name}.weight": torch.empty(shape, device="meta")
        for name, shape in projector.items()
    }
    shapes |= _shapes(WhisperEncoder, encoder, "audio_tower.")
    shapes |= _shapes(LlamaForCausalLM, language, "language_model.")
    config = {
        "architectures": ["UltravoxModel"],
        "model_type": "ultravox",
        "stack_factor": stack,
        "hidden_size": width,
        "projector_act": "swiglu",
        "audio_config": encoder.to_dict(),
        "text_config": language.to_dict(),
    }
    return Drawn((Part(shapes, config),), (fast.save_pretrained, _ends(fast)))


def diva(text: Config, audio: Config) -> Drawn:
    """A DiVA of 448 tokens, with the Whisper and the Llama that it refers to."""
    fast = _chat_tokenizer("<|audio|>")
    whisper, language = _whisper(audio), LlamaConfig(**{**text, **_named(fast)})
    queries = whisper.max_target_positions
    encoder = _of_class(WhisperModel, whisper, "encoder")
    decoder = _of_class(LlamaForCausalLM, language, "decoder")
    own = {
        "query_tokens": (queries, whisper.d_model),
        "projection.weight": (whisper.d_model, text["hidden_size"]),
        "projection.bias": (text["hidden_size"],),
    }
    shapes = {name: torch.empty(shape, device="meta") for name, shape in own.items()}
    shapes |= {
        f"connector.{name.removeprefix('decoder.')}": values
        for name, values in encoder.shapes.items()
        if name.startswith("decoder.")
    }
    config = {
        "architectures": ["DiVAModel"],
        "model_type": "diva",
        "reference_encoder": encoder.folder,
        "reference_decoder": decoder.folder,
    }
    features = WhisperFeatureExtractor(feature_size=whisper.num_mel_bins)
    return Drawn(
        (Part(shapes, config), encoder, decoder),
        (
            lambda folder: features.save_pretrained(folder / encoder.folder),
            lambda folder: fast.save_pretrained(folder / decoder.folder),
            lambda folder: _ends(fast)(folder / decoder.folder),
        ),
    )


def _text(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, context: int,
    *, tied: bool = False, **more: Any,
) -> Config:  # fmt: skip
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        **more,
    }


def _encoder(width: int, layers: int, heads: int, mel_bins: int = 128) -> Config:
    """A Whisper encoder under the names of its first config class."""
    return {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": mel_bins,
    }


LARGE = _encoder(1280, 32, 20)
"""Of Whisper large-v3, its turbo form, and all encoders made from it."""
LARGE_NAMED = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
    "num_mel_bins": 128,
}
"""The same under the names of later config classes."""


def _llama3(factor: float) -> Config:
    """Rotary embeddings of Llama 3.1 and later."""
    return {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


MODELS: Mapping[str, Model] = {
    "qwen2-audio-7b": Model(
        qwen2_audio,
        _text(4096, 11_008, 32, 32, 32, 156_032, 8192),
        LARGE,
        "Qwen/Qwen2-Audio-7B-Instruct",
    ),
    "qwen2.5-omni-3b": Model(
        qwen2_5_omni,
        _text(2048, 11_008, 36, 16, 2, 151_936, 32_768),
        LARGE,
        "Qwen/Qwen2.5-Omni-3B",
    ),
    "qwen2.5-omni-7b": Model(
        qwen2_5_omni,
        _text(3584, 18_944, 28, 28, 4, 152_064, 32_768),
        LARGE,
        "Qwen/Qwen2.5-Omni-7B",
    ),
    "audio-flamingo-3": Model(
        audio_flamingo_3,
        _text(3584, 18_944, 28, 28, 4, 151_672, 32_768),
        LARGE_NAMED,
        "nvidia/audio-flamingo-3-hf",
    ),
    "qwen3-asr-0.6b": Model(
        qwen3_asr,
        _text(1024, 3072, 28, 16, 8, 151_936, 65_536, tied=True, head_dim=128),
        _encoder(896, 18, 14),
        "Qwen/Qwen3-ASR-0.6B-hf",
    ),
    "qwen3-asr-1.7b": Model(
        qwen3_asr,
        _text(2048, 6144, 28, 16, 8, 151_936, 65_536, tied=True, head_dim=128),
        _encoder(1024, 24, 16),
        "Qwen/Qwen3-ASR-1.7B-hf",
    ),
    "glm-asr-nano": Model(
        glm_asr,
        _text(2048, 6144, 28, 16, 4, 59_264, 8192, head_dim=128),
        {**LARGE_NAMED, "num_key_value_heads": 20},
        "zai-org/GLM-ASR-Nano-2512",
    ),
    "granite-speech-2b": Model(
        granite_speech,
        _text(
            2048,
            8192,
            40,
            32,
            8,
            49_160,
            131_072,
            tied=True,
            embedding_multiplier=12.0,
            attention_multiplier=0.015625,
            residual_multiplier=0.22,
            logits_scaling=8.0,
        ),
        {"hidden_dim": 1024, "num_layers": 16},
        "ibm-granite/granite-speech-3.3-2b",
    ),
    "voxtral-mini-3b": Model(
        voxtral,
        _text(3072, 8192, 30, 32, 8, 131_072, 131_072, head_dim=128),
        LARGE_NAMED,
        "mistralai/Voxtral-Mini-3B-2507",
    ),
    "ultravox-1b": Model(
        ultravox,
        _text(
            2048, 8192, 16, 32, 8, 128_256, 131_072,
            tied=True, head_dim=64, rope_parameters=_llama3(32.0),
        ),
        _encoder(768, 12, 12, 80),
        "fixie-ai/ultravox-v0_3-llama-3_2-1b",
    ),
    "ultravox-8b": Model(
        ultravox,
        _text(4096, 14_336, 32, 32, 8, 128_256, 131_072, rope_parameters=_llama3(8.0)),
        LARGE,
        "fixie-ai/ultravox-v0_4_1-llama-3_1-8b",
    ),
    "diva-8b": Model(
        diva,
        _text(4096, 14_336, 32, 32, 8, 128_256, 8192),
        {**LARGE, "vocab_size": 51_866},
        "WillHeld/DiVA-llama-3-v0-8b",
    ),
}  # fmt: skip
"""Published checkpoints by a short name."""
