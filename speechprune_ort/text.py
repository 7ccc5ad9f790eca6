"""What people write, checked before anything else sees it: texts, paths, lines of JSON."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from speechprune_ort.errors import DataError, OptionError, PromptError, SpeechPruneError

__all__ = [
    "JsonLine",
    "check_list",
    "check_path",
    "check_question",
    "check_text",
    "check_type",
    "counted",
    "expand_home",
    "folder_of",
    "for_picture",
    "parse_json",
    "printable",
    "printable_lines",
    "read_json",
    "read_jsonl",
    "read_objects",
    "short_names",
    "shown",
]

LONGEST_NAME = 255  # bytes of a file's name, on every file system in common use
LONGEST_PATH = 4095  # bytes
LARGEST_ARRAY = 1 << 30  # bytes of a JSON file of entries, read whole
LONGEST_LINE = 64 << 20  # bytes of a line of JSON: no request has more
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
UTF_8_MARK = b"\xef\xbb\xbf"
Kind = TypeVar("Kind")

SHOWN = 60  # characters of what was given, in a message
MOST_DRAWN = 40  # lines of a text in a picture


def check_text(
    value: object, what: str = "The question", error: type[SpeechPruneError] = PromptError
) -> str:
    r"""Return the value if it is a text that can be written down.

    Args:
        value: what was given.
        what: how a message calls it.
        error: what is raised.

    Raises:
        SpeechPruneError: it is not a ``str``, or holds half a character (a lone surrogate), which
            is what bytes that are not UTF-8 become on the command line.

    >>> check_text("Who? \U0001f600")
    'Who? 😀'
    """
    if not isinstance(value, str):
        raise error(f"{what} must be text, not {shown(value)}: give a str.")
    try:
        value.encode()
    except UnicodeEncodeError as wrong:
        raise error(
            f"{what} holds half a character or a byte that is not UTF-8 "
            f"({value[wrong.start]!a} at position {wrong.start}): give whole UTF-8 text."
        ) from None
    return value


def check_question(
    value: object, what: str = "The question", error: type[SpeechPruneError] = PromptError
) -> str:
    """Return the value if it is a text that asks something.

    Arguments are those of ``check_text``.

    Raises:
        SpeechPruneError: it is no text that can be written down, or it is blank.
    """
    question = check_text(value, what, error)
    if not question.strip():
        raise error(f"{what} is empty: ask something about the recording.")
    return question


def printable(text: str) -> str:
    r"""A text on one line that cannot control a terminal: what is not printable is escaped.

    >>> printable("a\nb\x1b[2J\udcff")
    'a\\nb\\x1b[2J\\udcff'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    r"""A text with its lines, none of which can control a terminal.

    >>> printable_lines("a\nb\x1b[2J")
    'a\nb\\x1b[2J'
    """
    return "\n".join(map(printable, text.split("\n")))


def shown(value: object) -> str:
    r"""A value in a message: short, on one line and in plain characters.

    >>> shown("a\nb"), shown(10**400), shown([1])
    ("'a\\nb'", 'a huge int', 'list')
    """
    if isinstance(value, (str, int, float)) or value is None:
        text = ascii(value) if not isinstance(value, int) or abs(value) < 10**18 else "a huge int"
    else:
        text = f"{type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def for_picture(text: str, width: int, most: int = MOST_DRAWN) -> str:
    r"""A text as it is drawn in a picture, with ``parse_math=False``: in lines, and literally.

    matplotlib's own ``wrap=True`` never breaks a word, and reads mathematics between two dollars
    even where ``parse_math`` is False.

    Args:
        text: what to draw.
        width: characters of a line, at most; a longer word is broken.
        most: lines, at most; where text is left out, dots at its end say so.

    >>> for_picture("Was it $5_ or $^6$?", 10)
    'Was it $5_\nor $^6$?'
    """
    lines = textwrap.wrap(
        printable(text), width, max_lines=most, placeholder=" […]", break_on_hyphens=False
    )
    return "\n".join(lines)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with what it counts.

    Args:
        number: how many.
        noun: one of them.
        plural: several of them; by default the noun with an s.

    >>> counted(1, "sample"), counted(0, "sample"), counted(2, "entry", "entries")
    ('1 sample', '0 samples', '2 entries')
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def check_type(value: object, kind: type[Kind], what: str) -> Kind:
    """Return the value if it has the type that a parameter takes.

    Args:
        value: what was given.
        kind: what it should be.
        what: name of the parameter.

    Raises:
        OptionError: it is something else.

    >>> check_type(3, int, "threads")
    3
    """
    if not isinstance(value, kind):
        raise OptionError(f"{what} takes a {kind.__name__}, not {shown(value)}.")
    return value


def check_list(value: object, kind: type[Any], what: str) -> list[Any]:
    """The values of a list, a tuple, an array or whatever else has an order, each of one type.

    Args:
        value: what was given.
        kind: what every one of them should be; ``object`` for any.
        what: name of the parameter.

    Raises:
        OptionError: it is not such a list, or one of them is something else.

    >>> check_list((1, 2), int, "seeds")
    [1, 2]
    """
    try:
        if isinstance(value, (str, bytes, Mapping, Set)):  # a text is not meant as its letters
            raise TypeError
        found: list[Any] = list(value)  # type: ignore[call-overload]
    except TypeError:
        raise OptionError(f"{what} takes a list, not {shown(value)}.") from None
    for one in found:
        check_type(one, kind, f"Every one of {what}")
    return found


def check_path(
    value: object, what: str = "The path", error: type[SpeechPruneError] = DataError
) -> Path:
    """Return the value as a path that could exist; whether it exists is not checked.

    Names that are not UTF-8 are paths like any other, in Python's own notation for them
    (``os.fsdecode``).

    Args:
        value: what was given.
        what: how a message calls it.
        error: what is raised.

    Raises:
        SpeechPruneError: it is neither ``str`` nor a path object, is empty, holds NUL, half a
            character or one that the locale lacks, or a name in it is too long.

    >>> check_path("a/b.wav").name
    'b.wav'
    """
    if not isinstance(value, (str, PathLike)):
        raise error(f"{what} must be a path, not {shown(value)}: give a str or a Path.")
    try:
        path = os.fspath(value)
    except Exception as wrong:  # whatever a caller's own path-like object does
        raise error(f"{what} must be a path ({wrong}): give a str or a Path.") from wrong
    if not isinstance(path, str):
        raise error(f"{what} must be a path as text, not bytes: give os.fsdecode of it.")
    if not path:
        raise error(f"{what} is empty: give the path of a file.")
    if "\0" in path:
        raise error(f"{what} holds a NUL character: no file has such a name.")
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError as wrong:
        letter = path[wrong.start]
        if not "\ud800" <= letter <= "\udfff":
            raise error(
                f"{what} has {letter!a} at position {wrong.start}, which this locale has "
                f"in no name ({wrong.encoding}): set PYTHONUTF8=1 or LC_ALL=C.UTF-8."
            ) from None
        raise error(
            f"{what} holds half a character ({letter!a} at position {wrong.start}): no file has "
            "such a name."
        ) from None
    longest = max(map(len, raw.split(os.fsencode(os.sep))))
    if longest > LONGEST_NAME or len(raw) > LONGEST_PATH:
        raise error(
            f"{what} is too long ({shown(path)}): a name has at most {LONGEST_NAME} bytes, a "
            f"path {LONGEST_PATH}."
        )
    return Path(path)


def expand_home(path: Path, what: str, error: type[SpeechPruneError]) -> Path:
    """Return a path with the home folder in place of the ``~`` or ``~user`` that it begins with.

    Args:
        path: the path.
        what: how a message calls it.
        error: what is raised.

    Raises:
        SpeechPruneError: that user has no home folder.

    >>> expand_home(Path("a/~b"), "The path", DataError).name
    '~b'
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise error(
            f"{what} begins with {shown(path.parts[0])}, and there is no home folder of that "
            "name: write the folder out, or put ./ before it."
        ) from None


def short_names(paths: Sequence[Path]) -> list[str]:
    """The names of files, with the folders of those that are alike.

    >>> short_names([Path("may/a.wav"), Path("june/a.wav"), Path("may/b.wav")])
    ['may/a.wav', 'june/a.wav', 'b.wav']
    """
    names = Counter(path.name for path in paths)
    return [path.name if names[path.name] == 1 else str(path) for path in paths]


@dataclass(frozen=True, slots=True)
class JsonLine:
    """A line of a JSONL file, or an entry of a JSON array.

    Attributes:
        number: from 1, blank lines counted.
        entry: the object that it holds; empty where it holds none.
        error: why it holds none, a sentence that names file and line; empty where it does.
        word: what it is: ``line`` or ``entry``.
    """

    number: int
    entry: Mapping[str, Any]
    error: str = ""
    word: str = "line"


def folder_of(path: Path) -> Path:
    """The folder that relative paths in a file are taken from.

    That of the file; of a pipe and of standard input (``/dev/stdin``) the working folder.
    """
    of_system = path.is_absolute() and path.parts[1:2] in (("dev",), ("proc",))
    return Path() if of_system or not path.is_file() else path.parent


def read_jsonl(path: Path, note: Callable[[bytes], object] | None = None) -> Iterator[JsonLine]:
    r"""The lines of a JSONL file, each an object or an error of its own.

    Lines end at ``\n`` alone: JSON may hold U+2028, U+2029 and U+0085 as they are. A UTF-8 byte
    order mark is skipped. Blank lines are left out. A pipe is read as a file is.

    Args:
        path: the file.
        note: called with every line's bytes, such as ``update`` of a hash.

    Raises:
        DataError: the file cannot be read, is UTF-16, or has a line longer than any request.
    """
    check_path(path, "The path of a JSONL file")
    try:
        with path.open("rb") as stream:
            number = 0
            while raw := stream.readline(LONGEST_LINE + 1):
                number += 1
                if note:
                    note(raw)
                if len(raw) > LONGEST_LINE:
                    raise DataError(
                        f"Line {number} of {path} is longer than {LONGEST_LINE >> 20} MiB: give "
                        "JSONL, one object per line."
                    )
                if number == 1 and raw.startswith(UTF_16):
                    raise DataError(f"{path} is UTF-16: save it as UTF-8.")
                content = raw.removeprefix(UTF_8_MARK) if number == 1 else raw
                if content.strip():
                    yield _parsed(content, number, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}): give a JSONL file.") from None


def read_objects(path: Path, note: Callable[[bytes], object] | None = None) -> Iterator[JsonLine]:
    """The objects of a JSONL file, or of a JSON file that is one array.

    A file whose name does not end in ``.jsonl`` and whose first character is ``[`` is an array,
    read whole; any other is read line by line.

    Args:
        path: the file.
        note: as in ``read_jsonl``.

    Raises:
        DataError: as ``read_jsonl`` and ``read_json``.
    """
    check_path(path, "The path of a JSON file")
    if path.suffix == ".jsonl" or not path.is_file() or not _begins_array(path):
        yield from read_jsonl(path, note)
        return
    for number, entry in enumerate(read_json(path, LARGEST_ARRAY, note), 1):
        if isinstance(entry, dict):
            yield JsonLine(number, entry, word="entry")
        else:
            error = f"Entry {number} of {path} is {shown(entry)}, not an object."
            yield JsonLine(number, {}, error, word="entry")


def _begins_array(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            start = stream.read(4096)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}).") from None
    return start.removeprefix(UTF_8_MARK).lstrip().startswith(b"[")


def _parsed(content: bytes, number: int, path: Path) -> JsonLine:
    try:
        entry = parse_json(content)
        if not isinstance(entry, dict):
            raise ValueError(f"it is {shown(entry)}, not an object")
    except ValueError as error:
        return JsonLine(number, {}, f"Line {number} of {path} is not a JSON object ({error}).")
    return JsonLine(number, entry)


def read_json(
    path: Path, most_bytes: int = LONGEST_LINE, note: Callable[[bytes], object] | None = None
) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        most_bytes: size of the largest file that is read, in bytes.
        note: called with the file's bytes.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """
    check_path(path, "The path of a JSON file")
    try:
        with path.open("rb") as stream:
            content = stream.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise DataError(f"{path} is larger than {most_bytes} bytes: give a smaller file.")
        if note:
            note(content)
        return parse_json(content.removeprefix(UTF_8_MARK))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}).") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}).") from None


def parse_json(content: bytes) -> Any:
    """JSON as the standard has it: UTF-8, no NaN, no name twice in one object.

    Raises:
        ValueError: it is not that; the message is short and says where.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte 0x{content[error.start]:02x} at {error.start} is not UTF-8: save it as UTF-8"
        ) from None
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once_each)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        twice = next(name for name, n in times.items() if n > 1)
        raise ValueError(f"it has {shown(twice)} more than once")
    return found


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
