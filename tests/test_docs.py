"""The site's parts that are made from the code, and that every page can be reached."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import pkgutil
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from paths import ROOT

import speechprune_ort
from speechprune_ort import Answer, Chat, LiveRecording, Recording, SpeechLLM, methods
from speechprune_ort.cli.app import app
from speechprune_ort.methods import METHODS

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """``scripts/docs_pages.py``, as mkdocs loads it."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_option_is_in_the_reference_of_the_command_line(hook: ModuleType) -> None:
    page = hook.on_page_markdown((DOCS / "reference" / "cli.md").read_text(encoding="utf-8"))
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) >= 6
    for name, command in commands.items():
        section = page.split(f"## `speechprune-ort {name}`")[1].split("\n## ")[0]
        for parameter in command.params:
            for flag in (*parameter.opts, *parameter.secondary_opts):
                wanted = flag if flag.startswith("-") else parameter.metavar or flag
                assert wanted in section, (name, wanted)


def test_what_pages_hold_of_the_code_is_up_to_date(hook: ModuleType) -> None:
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert hook.written(text) == text, "run scripts/docs_pages.py"
    outdated = "<!-- from the code: methods -->\nof 1984\n<!-- to here -->"
    assert "| `passages` |" in hook.written(outdated)
    assert "of 1984" not in hook.written(outdated)


def test_every_method_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "methods.md").read_text(encoding="utf-8")
    ours = {n: m for n, m in METHODS.items() if m.select.__module__.startswith("speechprune_ort.")}
    assert len(ours) > 10
    for name, found in ours.items():
        assert f"| `{name}` | {found.summary} |" in page
        for paper in re.findall(r"\d{4}\.\d{5}", found.source):
            assert f"https://arxiv.org/abs/{paper}" in page


CALLED_ON = {
    "model": SpeechLLM,
    "recording": Recording,
    "chat": Chat,
    "live": LiveRecording,
    "answer": Answer,
}
"""Classes of the objects that pages call by these names."""


def public(kind: type) -> set[str]:
    names = {*dir(kind), *(getattr(kind, "__dataclass_fields__", ()))}
    return {name for name in names if not name.startswith("_")}


def test_the_page_of_the_interface_has_every_call_and_no_other() -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    shown: dict[str, set[str]] = {name: set() for name in CALLED_ON}
    holder = ""  # `.name` is of the same as the span before it
    for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE):
        for span in re.findall(r"`([^`]+)`", row):
            call = re.fullmatch(r"(?:await |async for piece in )?(\w*)\.(\w+)(?:\((.*)\))?", span)
            if call is None:
                continue
            holder = call[1] or holder
            shown[holder].add(call[2])
            if call[3] and call[3] != "...":
                takes = inspect.signature(getattr(CALLED_ON[holder], call[2])).parameters
                assert set(re.findall(r"\w+", call[3])) <= set(takes), span
    table = page.split("`Answer` is frozen")[1].split("\n\n")[1]
    columns = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    shown["answer"] |= {name for cell in columns for name in re.findall(r"`(\w+)`", cell)}
    shown["answer"] |= {"text", "to_dict"}  # in sentences
    assert {n: shown[n] for n in shown} == {n: public(kind) for n, kind in CALLED_ON.items()}


def test_the_page_of_the_interface_lists_every_name() -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    for module in (speechprune_ort, methods):
        listed = page.split(f"From `{module.__name__}`")[1].split("<!-- to here -->")[0]
        assert re.findall(r"^\| `(\w+)`", listed, re.MULTILINE) == module.__all__


def test_the_reference_of_python_has_every_name_and_no_other() -> None:
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    shown = set()
    for path, settings in re.findall(r"^::: ([\w.]+)\n((?:    .*\n)*)", page, re.MULTILINE):
        found = pkgutil.resolve_name(path)
        members = re.search(r"members: \[(.*)\]", settings)
        if members:
            names = members[1].split(", ")
        elif isinstance(found, ModuleType):
            names = found.__all__
        else:
            shown.add(path.rpartition(".")[2])
            continue
        assert all(hasattr(found, name) for name in names), path
        shown |= set(names)
    constants = {"METHODS", "__version__"}  # told in a line of the interface's page
    assert {*speechprune_ort.__all__, *methods.__all__} - shown == constants


def test_every_mark_names_a_part_and_every_part_is_used(hook: ModuleType) -> None:
    pages = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")]
    names = [name for page in pages for _, name, _ in hook.MARK.findall(page)]
    assert set(names) == set(hook.PARTS)
    assert len(names) == sum(page.count("<!-- from the code") for page in pages)
    with pytest.raises(ValueError, match="There is no part nothing: name one of changelog, "):
        hook.on_page_markdown("<!-- from the code: nothing -->\n\n<!-- to here -->")
    assert "license:" not in hook.PARTS["model_card"]().split("# The embedded")[0]
    assert "](docs/" not in hook.PARTS["contributing"]()


def pages_of(nav: Any) -> Iterator[str]:
    """Paths that a ``nav`` of mkdocs.yml names."""
    if isinstance(nav, str):
        yield nav
    for entry in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from pages_of(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    content = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert content["strict"] is True
    named = list(pages_of(content["nav"]))
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(named) == sorted(there)


def test_links_on_the_site_lead_to_pages(hook: ModuleType) -> None:
    """As mkdocs holds them: what is filled in stands in docs/, wherever it was written."""
    found = 0
    for page in DOCS.rglob("*.md"):
        text = hook.on_page_markdown(page.read_text(encoding="utf-8"))
        for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text):
            target = (page.parent / link).resolve()
            assert target.is_file(), (page.name, link)
            assert target.is_relative_to(DOCS), (page.name, link)
            found += 1
    assert found > 100


def test_every_page_that_code_names_is_there() -> None:
    named = {
        (path.relative_to(ROOT).as_posix(), page)
        for folder in ("speechprune_ort", "export", "runtime", "scripts", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in ("", ".py", ".sh")
        for page in re.findall(r"docs/[\w./-]+\.(?:md|json)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 8
    assert not sorted((path, page) for path, page in named if not (ROOT / page).is_file())


@pytest.mark.parametrize(("name", "least"), [("reliability", 40), ("cuda", 15)])
def test_every_test_that_a_page_names_is_there(name: str, least: int) -> None:
    page = (DOCS / "explanation" / f"{name}.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| `(tests/[\w./]+)`: (.*) \|", page)
    assert len(rows) > least
    for path, names in rows:
        code = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in code, (path, name)


@cache
def said_and_known() -> tuple[list[tuple[str, str]], set[str]]:
    """Docstrings and comments by file, and every name and word that code has beside them."""
    said: list[tuple[str, str]] = []
    tops = list(ROOT.iterdir())
    known = {top.name.split(".")[0] for top in tops}
    for top in tops:  # but for environments and what else lies in hidden folders
        if not top.name.startswith("."):
            known |= {path.name.split(".")[0] for path in top.rglob("*")}
    for folder in ("speechprune_ort", "export", "runtime", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            name, code = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
            tree = ast.parse(code)
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            texts = {
                id(line.value)
                for node in ast.walk(tree)
                if isinstance(node, documented)
                for line in node.body
                if isinstance(line, ast.Expr)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    if id(node) in texts:
                        said.append((name, node.value))
                    elif name != "tests/test_docs.py":  # whose words are the exceptions below
                        known.update(re.findall(r"\w+", node.value))
            for token in tokenize.generate_tokens(io.StringIO(code).readline):
                if token.type == tokenize.COMMENT:
                    said.append((name, token.string))
                elif token.type == tokenize.NAME:
                    known.add(token.string)
    return said, known


def of_pages() -> list[tuple[str, str]]:
    """Pages by file."""
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    return [(page.name, page.read_text(encoding="utf-8")) for page in pages]


ELSEWHERE = {
    "AudioBench", "Qwen2Model", "cu_seqlens", "k_quant_type",
    "manylinux_2_17_aarch64", "manylinux_2_28_aarch64",
    "faster_whisper_environment",
    "MEMORY_MB", "TASK_DATASET", "test_NAME", "tiny_NAME",
    "audio_ms", "embed_ms", "log_mel_ms", "standard_output",
    "masking_utils", "sdpa_mask", "sliding_window_overlay",
    "cosine_ij", "relevance_i", "relevance_j",
}  # fmt: skip
"""Names of other programs, names with a part to fill in or put together, and of formulas."""


def test_every_name_that_texts_use_is_one_of_the_code() -> None:
    said, known = said_and_known()
    said = [*said, *of_pages()]
    assert len(said) > 3000
    named = {
        (place, name)
        for place, text in said
        for span in re.findall(r"`([^`\n]+)`", text)
        for name in re.findall(r"[A-Za-z]\w*", span)
        if "_" in name.strip("_") or re.fullmatch(r"(?:[A-Z][a-z0-9]+){2,}", name)
    }
    assert len(named) > 500
    unknown = {(place, name) for place, name in named if name not in known}
    assert not sorted((p, n) for p, n in unknown if n not in ELSEWHERE)
    assert {name for _, name in unknown} == ELSEWHERE, "a name that no text has any longer"


def test_lists_of_precisions_are_whole() -> None:
    said, _ = said_and_known()
    said = [*said, *of_pages()]
    lists = [
        (place, sentence)
        for place, text in said
        for sentence in re.split(r"\.\s|\n\n", text)
        if all(re.search(rf"\b{name}\b", sentence) for name in ("fp32", "fp16", "int8", "int4"))
    ]
    assert len(lists) > 3
    for name in ("w8a8", "bf16"):
        assert not [(place, sentence) for place, sentence in lists if name not in sentence]


def test_the_changelog_has_every_part_by_name() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    ours = [n for n, m in METHODS.items() if m.select.__module__.startswith("speechprune_ort.")]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lacks = [n for n in [*ours, *commands] if not re.search(rf"`(?:[\w/-]+ )?{n}\b", text)]
    assert not lacks
