"""Names of methods stand in their own folder, and two of them in one line besides."""

from __future__ import annotations

import ast
import re

from paths import ROOT

from speechprune_ort.methods import METHODS

NAMED = "speechprune_ort/choices.py"
"""Names the default and the method that keeps every token, in one line."""
OTHER_MEANINGS = {
    ("runtime/hearing/audio.py", "truncate"): "what becomes of long audio",
    ("runtime/hearing/decoding.py", "none"): "FFmpeg's word for no protocol",
    ("runtime/hearing/recording_file.py", "attention"): "an array of a saved recording",
    ("speechprune_ort/choices.py", "truncate"): "what becomes of long audio",
    ("speechprune_ort/installation.py", "none"): "there is no driver",
    ("speechprune_ort/contract/specs.py", "attention"): "an output of a graph",
    ("speechprune_ort/contract/specs.py", "similarity"): "a graph",
    ("speechprune_ort/evaluation/plots.py", "random"): "how scikit-learn begins",
    ("speechprune_ort/server/chat.py", "none"): "OpenAI's word for no tool",
    ("speechprune_ort/server/chat.py", "speechprune"): "this package, in answers",
}
"""Words that are a method's name, too, by file."""


def named_in(text: object) -> list[str]:
    """The methods that a text is the name of, or a list of names."""
    names = re.split(r", ?| and | or ", text) if isinstance(text, str) else []
    return names if all(name in METHODS for name in names) else []


def found() -> dict[tuple[str, str], set[int]]:
    """Lines of the texts that are a method's name or list them, outside the methods' folder."""
    places: dict[tuple[str, str], set[int]] = {}
    for folder in ("speechprune_ort", "export", "runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith("runtime/choosing/methods/"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for method in named_in(node.value) if isinstance(node, ast.Constant) else ():
                    places.setdefault((name, method), set()).add(node.lineno)
    return places


def test_lists_of_names_are_found() -> None:
    assert named_in("none,random, crop and truncate") == ["none", "random", "crop", "truncate"]
    assert named_in("none of them, random") == named_in(3) == []


def test_methods_are_named_in_their_own_folder_alone() -> None:
    places = found()
    named = {key: lines for key, lines in places.items() if key not in OTHER_MEANINGS}
    assert set(named) == {(NAMED, "coverage"), (NAMED, "none")}
    assert len(set.union(*named.values())) == 1
    assert set(OTHER_MEANINGS) <= set(places), "a meaning that no file has any longer"
