"""Options that make one object: a command has the options, and its handler takes the object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["MadeBy", "grouped"]


@dataclass(frozen=True)
class MadeBy:
    """Marks the type of a handler's parameter: ``Annotated[AudioOptions, MadeBy(function)]``.

    Attributes:
        function: makes the object. Its parameters become options of the command, with their
            annotations and defaults.
    """

    function: Callable[..., Any]


def grouped(handler: Callable[..., object]) -> Callable[..., object]:
    """A handler whose parameters that are ``MadeBy`` a function are that function's parameters.

    Args:
        handler: of a subcommand; its other parameters stay as they are.

    >>> from typing import Annotated
    >>> def span(start: float = 0, end: float = 1) -> tuple[float, float]:
    ...     return start, end
    >>> @grouped
    ... def length(name: str, of: Annotated[tuple[float, float], MadeBy(span)] = (0, 1)) -> None:
    ...     print(name, of[1] - of[0])
    >>> inspect.signature(length)
    <Signature (name: str, start: float = 0, end: float = 1) -> None>
    >>> length("stretch", end=5)
    stretch 5
    """
    signature = inspect.signature(handler, eval_str=True)
    parameters: list[inspect.Parameter] = []
    makers: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    for parameter in signature.parameters.values():
        marks = getattr(parameter.annotation, "__metadata__", ())
        made = next((mark for mark in marks if isinstance(mark, MadeBy)), None)
        if made is None:
            parameters.append(parameter)
            continue
        parts = inspect.signature(made.function, eval_str=True).parameters
        makers[parameter.name] = made.function, list(parts)
        parameters += parts.values()

    flat = signature.replace(parameters=parameters)

    @functools.wraps(handler)
    def gathered(*args: Any, **options: Any) -> object:
        bound = flat.bind(*args, **options)
        bound.apply_defaults()
        given = bound.arguments
        for name, (make, parts) in makers.items():
            given[name] = make(**{part: given.pop(part) for part in parts})
        return handler(**given)

    gathered.__signature__ = flat  # type: ignore[attr-defined]
    return gathered
