"""The README and the guide: their code is run as it stands, and what they name is there.

Blocks of a page run in order, in a folder with a bundle (``bundle``), a checkpoint
(``my-checkpoint``) and a recording (``meeting.wav``). A block with a title is a file of that name;
``text`` is output; a block below ``<!-- not run: REASON -->`` is not run, for one of ``REASONS``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from paths import ROOT
from typer.testing import CliRunner

from speechprune_ort.cli.app import app

README = ROOT / "README.md"
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = [README, *GUIDE, *sorted(TUTORIALS.glob("*.md"))]

REASONS = {
    "needs the network",
    "needs a GPU",
    "needs a Ray cluster",
    "needs a microphone",
    "needs a model whose template takes a system prompt",
    "needs a model whose template takes several recordings",
    "needs a benchmark",
    "needs a family of your own",
    "takes minutes",
}
NOTHING_TO_RUN = {"text"}
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?(?P<rest>[^\n]*)\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    title: str | None
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), page
    assert not any(match["rest"].strip() for match in found), page
    return [Block(m["language"], m["code"], m["title"], m["reason"]) for m in found]


def commands(code: str) -> list[str]:
    """The commands of a block, one each: lines that end with a backslash are joined."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def run_command(line: str) -> None:
    """Run a command of a page; ours in this process, as starting it anew takes a second."""
    words = shlex.split(line, comments=True)
    if words[0] == "speechprune-ort" and not {"<", ">"} & set(words):
        result = CliRunner().invoke(app, words[1:])
        if result.exit_code:
            raise AssertionError(f"{line}\n{result.output}") from result.exception
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.fixture
def desk(
    bundle: Path,
    checkpoints: Any,
    tone: NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder that a page's code runs in."""
    from tiny import TINY

    (tmp_path / "bundle").symlink_to(bundle)
    (tmp_path / "my-checkpoint").symlink_to(checkpoints(TINY[0]))
    soundfile.write(tmp_path / "meeting.wav", tone, 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs(page: Path, desk: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.reason is not None or block.language in NOTHING_TO_RUN:
            continue
        if block.title is not None:
            (desk / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.code, str(page), "exec"), names)  # noqa: S102 - our own page
        else:
            assert block.language == "sh", f"{page.name}: a block has language {block.language!r}"
            for line in commands(block.code):
                run_command(line)


@pytest.mark.parametrize("notebook", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(
    notebook: Path, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNDLE", "bundle")
    names: dict[str, Any] = {}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs are made, not kept"
            exec(compile(cell["source"], str(notebook), "exec"), names)  # noqa: S102 - our own
    assert (desk / "answer.html").stat().st_size > 10_000


def test_python_examples_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = [b.code for b in blocks(README) if b.language == "python"]
    assert examples
    for example in examples:
        exec(compile(example, str(README), "exec"), {})  # noqa: S102 - our own README
    assert "450 of 1875" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        assert block.language in {"json", "python", "sh", *NOTHING_TO_RUN}, block
        assert block.reason is None or block.reason in REASONS, block
    marks = page.read_text(encoding="utf-8").count("<!-- not run:")
    assert marks == sum(block.reason is not None for block in blocks(page))


def test_every_page_of_the_guide_is_looked_at() -> None:
    assert len(GUIDE) >= 10
    ran = [b for page in PAGES for b in blocks(page) if b.language == "sh" and b.reason is None]
    assert len(ran) >= 8


def test_every_named_script_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"scripts/[\w./-]*\w", text))
    assert len(named) > 5
    missing = [name for name in named if not (README.parent / name).exists()]
    assert not missing


@pytest.mark.parametrize(
    "page",
    [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_and_scripts_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    named = re.findall(r"(?<![\w/])scripts/[\w./-]*\w", text)
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 900
