"""Put the parts together as one checkpoint folder, check it, and let it appear at once.

Training takes the language model alone, as a folder, too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from small_model.ctranslate2_whisper import whisper_encoder_weights
from small_model.delta import Array, Delta
from small_model.language_model import LanguageModel, read_gguf
from small_model.parts import fetch_qwen, fetch_whisper
from small_model.text import (
    AUDIO_TOKEN,
    CHAT_TEMPLATE,
    PROCESSOR,
    RENAMED_TOKENS,
    rename_tokens,
    token_id,
    tokenizer_config,
)
from speechprune_ort.errors import PartError
from speechprune_ort.files import whole_folder, write_json
from speechprune_ort.models.delta import FACTOR_A, FACTOR_B, merge
from speechprune_ort.models.packages import Report

# transformers' annotations are partial, and strict typing refuses calls of what lacks them.
library: Any = transformers

MODEL_TYPE = "qwen2_audio"
WEIGHTS_FILE = "model.safetensors"
# numpy has no bfloat16, and the kit of a bundle repeats this rounding.
STORED: Literal["float16"] = "float16"

ENCODER, TEXT = "audio_tower.", "language_model.model."
EMBEDDINGS, HEAD = f"{TEXT}embed_tokens.weight", "language_model.lm_head.weight"

ATTENTION_HEADS = 8  # Whisper base; the only size that its weights do not tell

PROBE = "The capital of France is"
PROBE_ANSWER = " Paris"


@dataclass(frozen=True)
class Parts:
    """Everything that the checkpoint is put together from."""

    encoder: Mapping[str, Array]  # float32, by the names of ``WhisperEncoder``
    language_model: LanguageModel

    @property
    def base(self) -> dict[str, Array]:
        """The weights under the names of Qwen2-Audio's checkpoint, before training."""
        text = self.language_model.weights
        weights = {ENCODER + name: values for name, values in self.encoder.items()}
        weights |= {TEXT + name: values for name, values in text.items()}
        return weights | {HEAD: text["embed_tokens.weight"]}


def gather(cache: Path, report: Report) -> Parts:
    """Fetch and read the parts."""
    whisper, language_model = fetch_whisper(cache, report), fetch_qwen(cache, report)
    report("Reading Whisper's encoder (CTranslate2)")
    encoder = whisper_encoder_weights(whisper)
    report("Reading Qwen2.5-Coder-0.5B (GGUF)")
    return Parts(encoder, read_gguf(language_model))


def silence_transformers() -> None:
    """Keep transformers' own progress bars and warnings off stderr."""
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()


def checkpoint_weights(base: Mapping[str, Array], delta: Delta) -> dict[str, Array]:
    """All weights of the trained checkpoint, float16, the same bytes on every machine.

    What training changed replaces values of the base, adds layers, and adds products to matrices.
    """
    ends = (FACTOR_A, FACTOR_B)
    factors = {name: v for name, v in delta.tensors.items() if name.endswith(ends)}
    replaced = {name: v for name, v in delta.tensors.items() if name not in factors}
    merged = merge({**base, **replaced}, factors, delta.record["scale"])
    return {name: np.ascontiguousarray(values.astype(STORED)) for name, values in merged.items()}


def checkpoint_config(weights: Mapping[str, Array], text: dict[str, Any], audio_token: int) -> Any:
    """The ``Qwen2AudioConfig``, with every size of the encoder read off its weights."""
    width, mels, _ = weights[f"{ENCODER}conv1.weight"].shape
    encoder = {name for name in weights if name.startswith(ENCODER)}
    audio_config = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": mels,
        "d_model": width,
        "encoder_layers": sum(name.endswith(".fc1.weight") for name in encoder),
        "encoder_attention_heads": ATTENTION_HEADS,
        "encoder_ffn_dim": weights[f"{ENCODER}layers.0.fc1.weight"].shape[0],
        "max_source_positions": weights[f"{ENCODER}embed_positions.weight"].shape[0],
        "activation_function": "gelu",
        "scale_embedding": False,
    }
    special = {key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return library.Qwen2AudioConfig(
        audio_config=audio_config,
        text_config={"model_type": "qwen2", "tie_word_embeddings": False, **text},
        audio_token_index=audio_token,
        # The class keeps lm_head apart from the embeddings, so the file holds both.
        tie_word_embeddings=False,
        dtype=STORED,
        architectures=["Qwen2AudioForConditionalGeneration"],
        **special,
    )


def write_checkpoint(parts: Parts, delta: Delta, folder: Path, report: Report) -> None:
    """Write every file of the checkpoint into an empty folder."""
    report("Adding what training changed")
    weights = checkpoint_weights(parts.base, delta)
    text = parts.language_model.config
    tokenizer = rename_tokens(parts.language_model.tokenizer, RENAMED_TOKENS)
    config = checkpoint_config(weights, text, token_id(tokenizer, AUDIO_TOKEN))

    report("Writing the tokenizer and the processor")
    write_tokenizer(folder, tokenizer, text["max_position_embeddings"])
    extractor = library.WhisperFeatureExtractor(
        feature_size=config.audio_config.num_mel_bins, return_attention_mask=True
    )
    processor = library.Qwen2AudioProcessor(
        feature_extractor=extractor,
        tokenizer=library.AutoTokenizer.from_pretrained(folder),
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    # Readers other than the newest transformers look for the extractor in a file of its own.
    extractor.save_pretrained(folder)
    # save_pretrained has named a tokenizer class that only transformers 5 knows.
    write_tokenizer(folder, tokenizer, text["max_position_embeddings"])

    report("Writing the weights")
    write_weights(folder, weights, config, text, delta)
    for path in delta.texts:
        shutil.copyfile(path, folder / path.name)


def write_weights(
    folder: Path, weights: Mapping[str, Array], config: Any, text: Mapping[str, Any], delta: Delta
) -> None:
    """Write weights and configuration, and what the delta's record tells the user."""
    save_file(dict(weights), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(folder)
    library.GenerationConfig(
        do_sample=False,
        bos_token_id=text["bos_token_id"],
        eos_token_id=text["eos_token_id"],
        pad_token_id=text["pad_token_id"],
    ).save_pretrained(folder)
    # transformers 5 writes the rotary base inside rope_parameters; older readers look here, and
    # where they find nothing take 10,000 without a word.
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written["text_config"]["rope_theta"] = text["rope_theta"]
    # Export carries these into the bundle, and `ask` prints the notes.
    written["bundle_notes"] = delta.record["notes"]
    written["bundle_frame_temperature"] = delta.record["frame_temperature"]
    write_json(folder / "config.json", written)
    # safetensors makes its file readable to its owner alone; the others follow the umask.
    (folder / WEIGHTS_FILE).chmod((folder / "config.json").stat().st_mode)


def write_tokenizer(
    folder: Path, tokenizer: dict[str, Any], context: int, more: Mapping[str, str] = PROCESSOR
) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``, with ``more`` settings."""
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", tokenizer_config(context, more))


def write_language_model(found: LanguageModel, folder: Path) -> None:
    """Write ``Qwen2ForCausalLM`` in bfloat16, its embedding and output tied, and the tokenizer."""
    with torch.device("meta"):
        config = library.Qwen2Config(tie_word_embeddings=True, **found.config)
        model = library.Qwen2ForCausalLM(config)
    state = {f"model.{name}": torch.from_numpy(values) for name, values in found.weights.items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, found.tokenizer, found.config["max_position_embeddings"])


def check_checkpoint(folder: Path) -> None:
    """Load the folder as a user would and check what must hold.

    All keys match; the output layer equals the embeddings; the processor counts audio tokens and
    the tokenizer keeps them whole; the language model knows the capital of France.
    """
    model, info = library.Qwen2AudioForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    processor = library.AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    one_second = np.zeros(processor.feature_extractor.sampling_rate, dtype=np.float32)
    content = [{"type": "audio", "audio": one_second}, {"type": "text", "text": "What is said?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=prompt, audio=[one_second], return_tensors="pt")
    audio_count = int((inputs["input_ids"] == model.config.audio_token_index).sum())
    audio_ids = [token_id_of(tokenizer, token) for token in RENAMED_TOKENS.values()]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    probe = torch.tensor([tokenizer(PROBE, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        answer = tokenizer.decode(int(model(input_ids=probe).logits[0, -1].argmax()))
        spoken = model(**inputs).logits
    embeddings = model.get_input_embeddings().weight
    conditions = {
        f"all weights match the class ({info})": not any(info.values()),
        "lm_head equals the token embeddings": torch.equal(model.lm_head.weight, embeddings),
        "the audio tokens are special": set(audio_ids) <= special,
        "skip_special_tokens drops the audio tokens": not tokenizer.decode(
            audio_ids, skip_special_tokens=True
        ),
        f"one second is 25 audio tokens (found {audio_count})": audio_count == 25,
        "a prompt with audio gives finite logits": bool(spoken.isfinite().all()),
        f"'{PROBE}' continues with '{PROBE_ANSWER}' (found '{answer}')": answer == PROBE_ANSWER,
    }
    demand(conditions)


def demand(conditions: Mapping[str, bool]) -> None:
    """Refuse a finished checkpoint of which not all is true."""
    failed = [text for text, holds in conditions.items() if not holds]
    if failed:
        raise PartError(
            f"The finished checkpoint fails its check: not true that {'; '.join(failed)}: use "
            "the transformers version named in pyproject.toml, nothing was written."
        )


def token_id_of(tokenizer: Any, token: str) -> int:
    """The id of a token that must be one token of a loaded tokenizer, else -1."""
    ids: list[int] = tokenizer(token, add_special_tokens=False)["input_ids"]
    return ids[0] if len(ids) == 1 else -1


def check_target(out: Path, overwrite: bool, model_type: str = MODEL_TYPE) -> None:
    """Refuse an output folder that is there without ``overwrite``, or is no such checkpoint."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise PartError(f"{out} exists already: give another folder, or --overwrite to replace it.")
    try:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        replaceable = not out.is_symlink() and config["model_type"] == model_type
    except (OSError, ValueError, KeyError, TypeError):
        replaceable = False
    if not replaceable:
        raise PartError(
            f"{out} is not a checkpoint folder of this kind and will not be replaced: give "
            "another folder."
        )


def build(parts: Parts, delta: Delta, out: Path, overwrite: bool, report: Report) -> Path:
    """Write and check the checkpoint next to ``out``, then rename it; the path of its weights.

    Raises:
        PartError: ``out`` must not be replaced, the checkpoint fails its check, or the
            delta belongs to other weights; then ``out`` is as it was.
    """
    check_target(out, overwrite)
    with whole_folder(out, replace=True) as fresh:
        write_checkpoint(parts, delta, fresh, report)
        report("Checking the checkpoint: keys, output layer, processor, one sentence")
        check_checkpoint(fresh)
        delta.check(fresh / WEIGHTS_FILE)
        check_target(out, overwrite)
    return out / WEIGHTS_FILE
