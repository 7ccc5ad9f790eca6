"""Put the parts together as one checkpoint folder, check it, and let it appear at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from small_model.card import NOTICE, model_card
from small_model.ctranslate2_whisper import Weights
from small_model.delta import add_delta
from small_model.errors import SmallModelError
from small_model.parts import Report
from small_model.sources import Parts
from small_model.text import (
    AUDIO_TOKEN,
    CHAT_TEMPLATE,
    RENAMED_TOKENS,
    rename_tokens,
    token_id,
    tokenizer_config,
)
from speechprune_ort.files import whole_folder, write_json

# transformers' annotations are partial, and strict typing refuses calls of what lacks them.
library: Any = transformers

MODEL_TYPE = "qwen2_audio"
WEIGHTS_FILE = "model.safetensors"

PROJECTOR_SEED = 20240914
# Encoder frames of speech have norm 33 on average; token embeddings have standard deviation 0.1
# around their mean in each dimension. 0.1 / 33 lets projected frames spread as embeddings do.
PROJECTOR_STD = 0.003

ATTENTION_HEADS = 8  # Whisper base; the only size that its weights do not tell

PROBE = "The capital of France is"
PROBE_ANSWER = " Paris"


def silence_transformers() -> None:
    """Keep transformers' own progress bars and warnings off stderr."""
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()


UNTRAINED = (
    "the embedded default model is not trained yet: its projector is a seeded start, and what it "
    "answers has nothing to do with the recording"
)


def checkpoint_config(parts: Parts, audio_token: int) -> Any:
    """The ``Qwen2AudioConfig``, with every size of the encoder read off its weights."""
    encoder, text = parts.encoder, parts.language_model.config
    width, mels, _ = encoder["conv1.weight"].shape
    layers = sum(name.endswith(".fc1.weight") for name in encoder)
    audio_config = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": mels,
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": ATTENTION_HEADS,
        "encoder_ffn_dim": encoder["layers.0.fc1.weight"].shape[0],
        "max_source_positions": encoder["embed_positions.weight"].shape[0],
        "activation_function": "gelu",
        "scale_embedding": False,
    }
    special = {key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return library.Qwen2AudioConfig(
        audio_config=audio_config,
        text_config={"model_type": "llama", "tie_word_embeddings": False, **text},
        audio_token_index=audio_token,
        # The class keeps lm_head apart from the embeddings, so the file holds both.
        tie_word_embeddings=False,
        dtype="float32",
        architectures=["Qwen2AudioForConditionalGeneration"],
        **special,
    )


def projector_weights(embeddings: np.ndarray[Any, np.dtype[np.float32]], width: int) -> Weights:
    """The untrained projector: seeded small normal weights, the mean embedding as bias.

    numpy's generator and sums over rows in float64 give the same bytes on every machine.

    Args:
        embeddings: Token embeddings, (vocabulary, hidden).
        width: Width of the encoder.

    Returns:
        ``linear.weight`` (hidden, width) and ``linear.bias`` (hidden,), float32.
    """
    hidden = embeddings.shape[1]
    normal = np.random.default_rng(PROJECTOR_SEED).standard_normal((hidden, width))
    return {
        "linear.weight": (PROJECTOR_STD * normal).astype(np.float32),
        "linear.bias": embeddings.mean(axis=0, dtype=np.float64).astype(np.float32),
    }


def checkpoint_weights(parts: Parts) -> Weights:
    """All weights under the names of ``Qwen2AudioForConditionalGeneration``."""
    embeddings = parts.language_model.weights["embed_tokens.weight"]
    width = parts.encoder["conv1.weight"].shape[0]
    groups = {
        "model.audio_tower": parts.encoder,
        "model.multi_modal_projector": projector_weights(embeddings, width),
        "model.language_model": parts.language_model.weights,
    }
    weights = {
        f"{prefix}.{name}": values
        for prefix, group in groups.items()
        for name, values in group.items()
    }
    weights["lm_head.weight"] = embeddings.copy()
    return weights


def write_checkpoint(parts: Parts, folder: Path, report: Report) -> None:
    """Write every file of the checkpoint into an empty folder.

    Raises:
        SmallModelError: a part does not fit into the class.
    """
    text = parts.language_model.config
    tokenizer = rename_tokens(parts.language_model.tokenizer, RENAMED_TOKENS)
    config = checkpoint_config(parts, token_id(tokenizer, AUDIO_TOKEN))

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
    with torch.device("meta"):
        model = library.Qwen2AudioForConditionalGeneration(config)
    state = {name: torch.from_numpy(values) for name, values in checkpoint_weights(parts).items()}
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise SmallModelError(
            f"The parts do not fit into Qwen2AudioForConditionalGeneration ({error}): use the "
            "transformers version named in pyproject.toml."
        ) from error
    model.generation_config = library.GenerationConfig(
        do_sample=False,
        bos_token_id=text["bos_token_id"],
        eos_token_id=text["eos_token_id"],
        pad_token_id=text["pad_token_id"],
    )
    model.save_pretrained(folder, max_shard_size="4GB")
    # transformers 5 writes the rotary base inside rope_parameters; older readers look here, and
    # where they find nothing take 10,000 without a word.
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written["text_config"]["rope_theta"] = text["rope_theta"]
    # Export carries this into the bundle, and `ask` prints it.
    written["bundle_notes"] = [UNTRAINED]
    write_json(folder / "config.json", written)
    # safetensors makes its file readable to its owner alone; the others follow the umask.
    (folder / WEIGHTS_FILE).chmod((folder / "config.json").stat().st_mode)

    renamed = [(old, new, token_id(tokenizer, new)) for old, new in RENAMED_TOKENS.items()]
    card = model_card(parts.origins, renamed, text["hidden_size"], PROJECTOR_STD, PROJECTOR_SEED)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer: dict[str, Any], context: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", tokenizer_config(context))


def check_checkpoint(folder: Path) -> None:
    """Load the folder as a user would and check what must hold.

    All keys match; the output layer equals the embeddings; the processor counts audio tokens and
    the tokenizer keeps them whole; the language model knows the capital of France.

    Raises:
        SmallModelError: one of these does not hold.
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
    probe = torch.tensor([tokenizer(PROBE, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        answer = tokenizer.decode(int(model(input_ids=probe).logits[0, -1].argmax()))
        spoken = model(**inputs).logits
    embeddings = model.get_input_embeddings().weight
    conditions = {
        f"all weights match the class ({info})": not any(info.values()),
        "lm_head equals the token embeddings": torch.equal(model.lm_head.weight, embeddings),
        "the audio tokens are special": set(audio_ids) <= set(special_ids(tokenizer)),
        "skip_special_tokens drops the audio tokens": not tokenizer.decode(
            audio_ids, skip_special_tokens=True
        ),
        f"one second is 25 audio tokens (found {audio_count})": audio_count == 25,
        "a prompt with audio gives finite logits": bool(spoken.isfinite().all()),
        f"'{PROBE}' continues with '{PROBE_ANSWER}' (found '{answer}')": answer == PROBE_ANSWER,
    }
    failed = [text for text, holds in conditions.items() if not holds]
    if failed:
        raise SmallModelError(
            f"The finished checkpoint fails its check: not true that {'; '.join(failed)}: use "
            "the transformers version named in pyproject.toml, nothing was written."
        )


def token_id_of(tokenizer: Any, token: str) -> int:
    """The id of a token that must be one token of a loaded tokenizer, else -1."""
    ids: list[int] = tokenizer(token, add_special_tokens=False)["input_ids"]
    return ids[0] if len(ids) == 1 else -1


def special_ids(tokenizer: Any) -> list[int]:
    """The ids that a loaded tokenizer treats as special."""
    return [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that must not be replaced.

    Raises:
        SmallModelError: it exists and ``overwrite`` is not given, or it is no checkpoint of
            this kind.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise SmallModelError(
            f"{out} exists already: give another folder, or --overwrite to replace it."
        )
    try:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        replaceable = not out.is_symlink() and config["model_type"] == MODEL_TYPE
    except (OSError, ValueError, KeyError, TypeError):
        replaceable = False
    if not replaceable:
        raise SmallModelError(
            f"{out} is not a checkpoint folder of this kind and will not be replaced: give "
            "another folder."
        )


def build(
    parts: Parts, out: Path, overwrite: bool, report: Report, trained: Path | None = None
) -> Path:
    """Write and check the checkpoint next to ``out``, then rename it.

    Args:
        parts: From :func:`small_model.sources.gather`.
        out: The checkpoint folder to make; its parent is made where missing.
        overwrite: Replace an earlier checkpoint there.
        report: Called with lines of progress.
        trained: Folder of what training changed, to be added; None leaves it untrained.

    Returns:
        The path of the weights file.

    Raises:
        SmallModelError: ``out`` must not be replaced, the checkpoint fails its check, or the
            delta belongs to other weights; then ``out`` is as it was.
    """
    check_target(out, overwrite)
    with whole_folder(out, replace=True) as fresh:
        write_checkpoint(parts, fresh, report)
        report("Checking the checkpoint: keys, output layer, processor, one sentence")
        check_checkpoint(fresh)
        if trained is not None:
            report("Adding what training changed")
            add_delta(fresh, trained)
        check_target(out, overwrite)
    return out / WEIGHTS_FILE
