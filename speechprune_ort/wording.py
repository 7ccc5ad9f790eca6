"""``Wording``: what a prompt says besides the question, as far as a chat template allows."""

from __future__ import annotations

from dataclasses import dataclass

from speechprune_ort.errors import OptionError
from speechprune_ort.text import check_text

__all__ = ["Wording"]


@dataclass(frozen=True, slots=True)
class Wording:
    """What a prompt says besides question and audio.

    Attributes:
        system: system prompt; None for the template's own.
        text_first: whether the question comes before the audio; None for the template's order.
        language: language that is spoken, by its code (``en``) or its name as the model knows it;
            None leaves it to the model.

    Raises:
        OptionError: a text is not a ``str`` or is empty, or ``text_first`` is not a ``bool``.
    """

    system: str | None = None
    text_first: bool | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("system", self.system), ("language", self.language)):
            if value is not None and not check_text(value, f"{name}=", OptionError).strip():
                raise OptionError(f"{name}= is empty: give a text, or leave it out.")
        if not isinstance(self.text_first, bool | None):
            raise OptionError(f"text_first= takes True or False, not {self.text_first!r:.60}.")
