"""Worked examples in docstrings, shown as code on the site: an extension named in mkdocs.yml.

Our docstrings have examples wherever they explain something, without a heading; Markdown would take
``>>>`` for a quotation in a quotation.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .+(?:\n.+)*", re.MULTILINE)


class Examples(griffe.Extension):  # type: ignore[misc]
    """Puts fences around the examples of every docstring before it is read."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
