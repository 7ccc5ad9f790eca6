"""How ``--help`` is laid out: options and commands in groups, and examples at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, get_args

from typer.core import TyperCommand, TyperGroup

from speechprune_ort.errors import OptionError

__all__ = [
    "ANSWERING",
    "HEARING",
    "KEEPING",
    "RUNNING",
    "SHOWING",
    "WORDING",
    "Command",
    "Commands",
    "given_options",
]

KEEPING = "What is kept of the audio"
ANSWERING = "How an answer is generated"
HEARING = "How recordings are read"
RUNNING = "Where the work is done"
SHOWING = "What is shown"
WORDING = "What the prompt says"
ARGUMENTS, OPTIONS, COMMANDS = "Arguments", "Options", "Commands"

_given: ContextVar[Mapping[str, str]] = ContextVar("given", default={})  # noqa: B039 - is replaced


def given_options() -> Mapping[str, str]:
    """The options on the command line, as they are written there by the names of their parameters.

    For those that another makes vain: a default says nothing of what was wanted.
    """
    return _given.get()


class Command(TyperCommand):
    """A subcommand; its epilog is a list of examples, one a line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; an empty path is refused, which ``Path`` would take for ``.``.

        Raises:
            OptionError: a path is empty, or an option and its opposite are both given.
        """
        try:
            given, _, _ = self.make_parser(ctx).parse_args(list(args))
        except Exception:  # reported below, where they are parsed for real
            given = {}
        words = args[: args.index("--")] if "--" in args else args
        named: dict[str, str] = {}
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "option" and parameter.name in given:
                named[parameter.name] = parameter.opts[0]
            if all(set(words) & set(names) for names in (parameter.opts, parameter.secondary_opts)):
                raise OptionError(
                    f"{parameter.opts[0]} and {parameter.secondary_opts[0]} are opposites: give "
                    "one of them."
                )
            values = given.get(parameter.name or "")
            values = values if isinstance(values, (list, tuple)) else (values,)
            if "" in values and _takes_paths(parameter):
                name = parameter.opts[0]
                name = name if name.startswith("-") else name.upper()
                raise OptionError(f"{name} is empty: give a path.")
        _given.set(named)
        read: list[str] = super().parse_args(ctx, args)
        return read

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options: those without a group first."""
        records = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or OPTIONS
                records.append((ARGUMENTS if argument else panel, record))
        _write(formatter, records, (ARGUMENTS, OPTIONS))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are: a command that is broken into lines cannot be copied."""
        del ctx
        with formatter.section("Examples"):
            for line in (self.epilog or "").splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")


def _takes_paths(parameter: Any) -> bool:
    described = getattr(parameter, "type_descriptor", None)  # --help has none
    annotation = getattr(described, "annotation", None)
    return annotation is Path or Path in get_args(annotation)


class Commands(TyperGroup):
    """All subcommands, by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each with the first sentence of its help, whole."""
        records = []
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            first = " ".join((command.help or "").split("\n\n")[0].split())
            records.append((command.rich_help_panel or COMMANDS, (name, first)))
        _write(formatter, records, ())


def _write(
    formatter: Any, records: Iterable[tuple[str, tuple[str, str]]], first: tuple[str, ...]
) -> None:
    """Write records below the titles of their groups."""
    groups: dict[str, list[tuple[str, str]]] = {title: [] for title in first}
    for title, record in records:
        groups.setdefault(title, []).append(record)
    for title, rows in groups.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)
