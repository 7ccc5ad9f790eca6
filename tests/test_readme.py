"""The README's Python is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

README = Path(__file__).resolve().parent.parent / "README.md"


def test_python_examples_run(
    bundle: Path,
    tone: NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    (tmp_path / "bundle").symlink_to(bundle)
    soundfile.write(tmp_path / "meeting.wav", tone, 16_000)
    monkeypatch.chdir(tmp_path)
    for example in examples:
        exec(compile(example, str(README), "exec"), {})  # noqa: S102 - our own README
    assert "450 of 1875" in capsys.readouterr().out


def test_every_named_script_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"scripts/[\w./-]*\w", text))
    assert len(named) > 5
    missing = [name for name in named if not (README.parent / name).exists()]
    assert not missing
