"""Unit tests of the checkpoint builder's sources and of what it refuses to replace.

The hub is a fake one on disk: nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_model import hub, sources
from small_model.errors import SmallModelError
from small_model.language_model import LanguageModel

CONFIG = dict.fromkeys(sources.CONFIG_KEYS, 1) | {"unused": True}


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hub: one folder for each repository, digests in its listing."""
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("huggingface_hub")
    from safetensors.torch import save_file

    root = tmp_path / "hub"
    for repository, tensors in {
        hub.WHISPER: {"model.encoder.conv1.bias": torch.ones(2), "proj_out.weight": torch.ones(1)},
        hub.SMOLLM2: {"model.norm.weight": torch.tensor([0.5, 2.0], dtype=torch.bfloat16)},
    }.items():
        (root / repository).mkdir(parents=True)
        save_file(tensors, root / repository / hub.WEIGHTS)
    (root / hub.SMOLLM2 / hub.CONFIG).write_text(json.dumps(CONFIG))
    (root / hub.SMOLLM2 / hub.TOKENIZER).write_text("{}")

    def listing(path: Path) -> SimpleNamespace:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        lfs = SimpleNamespace(sha256=sha256) if path.name == hub.WEIGHTS else None
        return SimpleNamespace(rfilename=path.name, lfs=lfs, blob_id=hub.git_blob_sha1(path))

    listings = {r: [listing(p) for p in (root / r).iterdir()] for r in (hub.WHISPER, hub.SMOLLM2)}

    def model_info(_: object, repository: str, **options: object) -> SimpleNamespace:
        assert options["files_metadata"]
        return SimpleNamespace(sha="abc123", siblings=listings[repository])

    def download(repository: str, name: str, revision: str, cache_dir: Path) -> str:
        assert revision == "abc123"
        assert cache_dir == tmp_path / "hub"
        return str(root / repository / name)

    monkeypatch.setattr(library.HfApi, "model_info", model_info)
    monkeypatch.setattr(library, "hf_hub_download", download)
    return root


def test_hub_parts_are_read_as_float32_and_told_apart(fake_hub: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    parts = sources.gather(sources.Source.AUTO, tmp_path, lines.append)
    assert {name: v.tolist() for name, v in parts.encoder.items()} == {"conv1.bias": [1.0, 1.0]}
    norm = parts.language_model.weights["norm.weight"]
    assert (str(norm.dtype), norm.tolist()) == ("float32", [0.5, 2.0])
    assert set(parts.language_model.config) == set(sources.CONFIG_KEYS)
    assert all("at abc123" in origin for origin in parts.origins)
    assert lines[-1] == "Took the parts from the model hub, which answered."


@pytest.mark.parametrize("name", [hub.WEIGHTS, hub.CONFIG])
def test_a_hub_file_changed_on_the_way_is_refused(
    fake_hub: Path, tmp_path: Path, name: str
) -> None:
    path = fake_hub / hub.SMOLLM2 / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SmallModelError, match=rf"SmolLM2-135M-Instruct/{name} has") as caught:
        sources.gather(sources.Source.AUTO, tmp_path, lambda _: None)
    assert not isinstance(caught.value, hub.HubUnreachableError)


def test_no_answer_from_the_hub_is_one_sentence(
    fake_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nsecond line")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(hub.HubUnreachableError, match=r"\(ConnectionError: no route\): check"):
        sources.gather(sources.Source.HUB, tmp_path, lambda _: None)


def test_hub_files_are_compared_with_the_recorded_digest(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"hello\n")
    blob = "ce013625030ba8dba906f756967f9e9ca394464a"  # echo hello | git hash-object --stdin
    sha256 = hashlib.sha256(b"hello\n").hexdigest()
    hub.check_recorded(path, None, blob, "config.json")
    hub.check_recorded(path, sha256, "a pointer's blob, not the content's", "config.json")
    with pytest.raises(SmallModelError, match="git blob"):
        hub.check_recorded(path, None, "0" * 40, "config.json")
    with pytest.raises(SmallModelError, match="sha256"):
        hub.check_recorded(path, "0" * 64, blob, "config.json")
    with pytest.raises(SmallModelError, match="no digest"):
        hub.check_recorded(path, None, None, "config.json")


def test_auto_falls_back_to_packages_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sources.Parts({}, LanguageModel({}, {}, {}), ("a", "b"))

    def unreachable(*_: object) -> sources.Parts:
        raise hub.HubUnreachableError("The hub is away.")

    monkeypatch.setattr(sources, "from_hub", unreachable)
    monkeypatch.setattr(sources, "from_packages", lambda *_: made)
    lines: list[str] = []
    assert sources.gather(sources.Source.AUTO, tmp_path, lines.append) is made
    assert lines == ["Taking the parts from Python packages, because: The hub is away."]
    with pytest.raises(hub.HubUnreachableError):
        sources.gather(sources.Source.HUB, tmp_path, lines.append)


def test_auto_does_not_hide_a_damaged_hub_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> sources.Parts:
        raise SmallModelError("model.safetensors has sha256 0 where 1 is expected.")

    monkeypatch.setattr(sources, "from_hub", damaged)
    with pytest.raises(SmallModelError, match="has sha256"):
        sources.gather(sources.Source.AUTO, tmp_path, lambda _: None)


def refuse_target(out: Path, overwrite: bool) -> str:
    """The error of the target check; empty where it agrees."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from small_model.assemble import check_target

    try:
        check_target(out, overwrite)
    except SmallModelError as error:
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
