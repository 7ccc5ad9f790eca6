"""Unit tests of the checkpoint builder's parts: file readers, digests, token renaming.

Nothing is downloaded. The files are small ones that the tests write.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model.ctranslate2_whisper import parse_model_bin, whisper_encoder_weights
from small_model.language_model import transformers_name
from small_model.text import CHAT_TEMPLATE, IMAGE_TOKENS, RENAMED_TOKENS, rename_tokens, token_id

from speechprune_ort.errors import PartError

CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
WIDTH, MELS, FEED_FORWARD, FRAMES = 4, 3, 8, 6


def silent(line: str) -> None:
    """Ignore a line of progress."""


def string(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def model_bin(
    variables: dict[str, np.ndarray[Any, Any]], aliases: dict[str, str] | None = None
) -> bytes:
    """A CTranslate2 model file, written independently of the reader."""
    data = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<I", 3)
    data += struct.pack("<I", len(variables))
    for name, values in variables.items():
        data += string(name) + struct.pack("<B", values.ndim)
        data += struct.pack(f"<{values.ndim}I", *values.shape)
        data += struct.pack("<BI", CODES[str(values.dtype)], values.nbytes) + values.tobytes()
    data += struct.pack("<I", len(aliases or {}))
    for alias, name in (aliases or {}).items():
        data += string(alias) + string(name)
    return data


def tiny_encoder(layers: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    """Random float16 variables of a CTranslate2 Whisper encoder."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (WIDTH, MELS, 3),
        "encoder/conv1/bias": (WIDTH,),
        "encoder/conv2/weight": (WIDTH, WIDTH, 3),
        "encoder/conv2/bias": (WIDTH,),
        "encoder/position_encodings/encodings": (FRAMES, WIDTH),
        "encoder/layer_norm/gamma": (WIDTH,),
        "encoder/layer_norm/beta": (WIDTH,),
    }
    for i in range(layers):
        layer = f"encoder/layer_{i}"
        for norm in ("self_attention/layer_norm", "ffn/layer_norm"):
            shapes |= {f"{layer}/{norm}/gamma": (WIDTH,), f"{layer}/{norm}/beta": (WIDTH,)}
        for linear, (rows, columns) in {
            "self_attention/linear_0": (3 * WIDTH, WIDTH),
            "self_attention/linear_1": (WIDTH, WIDTH),
            "ffn/linear_0": (FEED_FORWARD, WIDTH),
            "ffn/linear_1": (WIDTH, FEED_FORWARD),
        }.items():
            shapes |= {
                f"{layer}/{linear}/weight": (rows, columns),
                f"{layer}/{linear}/bias": (rows,),
            }
    variables = {k: random.standard_normal(s).astype(np.float16) for k, s in shapes.items()}
    for i in range(layers):
        variables[f"encoder/layer_{i}/self_attention/linear_0/bias"][WIDTH : 2 * WIDTH] = 0
    return variables


def test_model_bin_gives_back_every_type_shape_and_alias() -> None:
    written: dict[str, np.ndarray[Any, Any]] = {
        "a/float32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b/int8": np.array([-1, 5], dtype=np.int8),
        "c/int16": np.array([[300]], dtype=np.int16),
        "d/scalar": np.array(7, dtype=np.int32),
        "e/float16": np.array([0.5, -2.0], dtype=np.float16),
    }
    variables = parse_model_bin(model_bin(written, {"f/alias": "e/float16"}))
    assert set(variables) == {*written, "f/alias"}
    for name, values in written.items():
        assert variables[name].dtype == values.dtype
        np.testing.assert_array_equal(variables[name], values)
    assert variables["f/alias"] is variables["e/float16"]


def test_encoder_weights_have_whispers_names_and_split_projections() -> None:
    variables = tiny_encoder(layers=2)
    others = {"decoder/embeddings/weight": np.zeros(3, np.int8), "encoder/num_heads": np.array(2)}
    data = model_bin({**variables, **{k: v.astype(np.int8) for k, v in others.items()}})
    weights = whisper_encoder_weights(data)
    stacked = variables["encoder/layer_1/self_attention/linear_0/weight"].astype(np.float32)
    for row, projection in enumerate("qkv"):
        np.testing.assert_array_equal(
            weights[f"layers.1.self_attn.{projection}_proj.weight"],
            stacked[row * WIDTH : (row + 1) * WIDTH],
        )
    assert "layers.1.self_attn.k_proj.bias" not in weights
    assert {values.dtype for values in weights.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(
        weights["layers.0.final_layer_norm.bias"],
        variables["encoder/layer_0/ffn/layer_norm/beta"].astype(np.float32),
    )


def test_encoder_weights_fill_transformers_encoder_exactly() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        num_mel_bins=MELS,
        d_model=WIDTH,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=FEED_FORWARD,
        max_source_positions=FRAMES,
    )
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    weights = whisper_encoder_weights(model_bin(tiny_encoder(layers=2)))
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    encoder.load_state_dict(state, strict=True)


def test_gguf_names() -> None:
    assert transformers_name("output_norm.weight") == "norm.weight"
    assert transformers_name("blk.0.ffn_norm.weight") == "layers.0.post_attention_layernorm.weight"
    assert transformers_name("blk.3.attn_k.bias") == "layers.3.self_attn.k_proj.bias"
    with pytest.raises(KeyError, match=r"rope_freqs\.weight"):
        transformers_name("rope_freqs.weight")


def small_tokenizer() -> dict[str, Any]:
    """A byte-level ``tokenizer.json`` with some special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = ["<|im_end|>", *RENAMED_TOKENS, "1", "2", "a", "b", "\u0120", "ab"]
    backend = Tokenizer(
        models.BPE(vocab={text: i for i, text in enumerate(tokens)}, merges=[("a", "b")])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in tokens if t.startswith("<")]
    )
    content: dict[str, Any] = json.loads(backend.to_str())
    return content


def test_renaming_keeps_ids_and_leaves_the_original_alone() -> None:
    before = small_tokenizer()
    after = rename_tokens(before, RENAMED_TOKENS)
    for old, new in RENAMED_TOKENS.items():
        assert token_id(after, new) == token_id(before, old)
        assert old not in after["model"]["vocab"]
        assert new not in before["model"]["vocab"]
    assert len(after["model"]["vocab"]) == len(before["model"]["vocab"])


def test_renamed_tokens_are_special_to_the_tokenizer() -> None:
    from tokenizers import Tokenizer

    content = rename_tokens(small_tokenizer(), RENAMED_TOKENS)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    ids = tokenizer.encode("ab<|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>12").ids
    named = [token_id(content, t) for t in ("ab", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")]
    digits = [token_id(content, "1"), token_id(content, "2")]
    assert ids == [named[0], named[1], named[2], named[2], named[3], *digits]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab12"


def test_renaming_refuses_unknown_ordinary_and_taken_tokens() -> None:
    tokenizer = small_tokenizer()
    with pytest.raises(PartError, match="no special token <missing>"):
        rename_tokens(tokenizer, {"<missing>": "<new>"})
    with pytest.raises(PartError, match="no special token ab"):
        rename_tokens(tokenizer, {"ab": "<new>"})
    with pytest.raises(PartError, match="has a token <|im_end|> already".replace("|", r"\|")):
        rename_tokens(tokenizer, {IMAGE_TOKENS[0]: "<|im_end|>"})


def test_chat_template_renders_audio_then_text() -> None:
    jinja2 = pytest.importorskip("jinja2")
    content = [{"type": "audio", "audio_url": "x.wav"}, {"type": "text", "text": "Who speaks?"}]
    text = jinja2.Template(CHAT_TEMPLATE, autoescape=False).render(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}],
        add_generation_prompt=True,
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>\nWho speaks?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def refuse_target(out: Path, overwrite: bool) -> str:
    """The error of the target check; empty where it agrees."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from small_model.assemble import check_target

    try:
        check_target(out, overwrite)
    except PartError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("config", "overwrite", "message"),
    [
        (None, True, "is not a checkpoint folder of this kind"),
        ({"model_type": "llama"}, True, "is not a checkpoint folder of this kind"),
        ({"model_type": "qwen2_audio"}, False, "exists already"),
        ({"model_type": "qwen2_audio"}, True, ""),
    ],
)
def test_only_a_checkpoint_is_replaced_and_only_when_asked(
    tmp_path: Path, config: dict[str, Any] | None, overwrite: bool, message: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    found = refuse_target(tmp_path, overwrite)
    assert message in found
    assert bool(message) == bool(found)


def test_a_new_folder_is_accepted(tmp_path: Path) -> None:
    assert not refuse_target(tmp_path / "new", overwrite=False)
