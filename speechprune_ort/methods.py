"""Methods that choose audio tokens: those of the package, and your own.

A method is a function from a request to a selection, under a name:

>>> import numpy as np
>>> from speechprune_ort.methods import MethodOptions, Request, Selection, method
>>> @method("every-other", summary="every other token, as far as they reach")
... def every_other(request: Request[MethodOptions]) -> Selection:
...     order = np.argsort(np.arange(request.tokens) % 2, kind="stable")
...     return Selection(np.sort(order[: request.n_keep]))
>>> from speechprune_ort import PruningOptions
>>> PruningOptions(method="every-other").method
'every-other'

Options of its own are a frozen dataclass, and the function finds them in ``request.own``:

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Every(MethodOptions):
...     step: int = 2
>>> @method("every", summary="every n-th token, as far as they reach", options=Every)
... def every(request: Request[Every]) -> Selection:
...     order = np.argsort(np.arange(request.tokens) % request.own.step, kind="stable")
...     return Selection(np.sort(order[: request.n_keep]))
>>> PruningOptions(Every(step=3)).method
'every'

In a file of its own, a method is available on the command line, too: ``speechprune-ort ask --plugin
FILE --method every-other ...``. See docs/guide/add-a-method.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from speechprune_ort.contract.contained import contained
from speechprune_ort.errors import OptionError
from speechprune_ort.files import sha256_of
from speechprune_ort.options import PruningOptions
from speechprune_ort.runtime.choosing.methods import (
    METHODS,
    Method,
    MethodOptions,
    Request,
    Scores,
    Selection,
    TwoPhases,
    Work,
    method,
)
from speechprune_ort.runtime.choosing.methods.diverse import SaMap
from speechprune_ort.runtime.choosing.methods.passages import Passages
from speechprune_ort.runtime.choosing.methods.speechprune import Attention, Similarity, SpeechPrune

__all__ = [
    "METHODS",
    "Attention",
    "Method",
    "MethodOptions",
    "Passages",
    "Request",
    "SaMap",
    "Scores",
    "Selection",
    "Similarity",
    "SpeechPrune",
    "TwoPhases",
    "Work",
    "load_plugins",
    "method",
    "needs_cut",
    "needs_encoder",
]


def needs_encoder(options: PruningOptions) -> bool:
    """Whether these options need a recording made with ``encoder_attention=True``."""
    return METHODS[options.method].encoder_attention


def needs_cut(options: PruningOptions) -> bool:
    """Whether these options need a bundle that was exported with ``--cut-after``."""
    return METHODS[options.method].decoder_attention


def load_plugins(paths: Iterable[Path]) -> None:
    """Run Python files that register methods. They may do anything: use only files that you trust.

    Args:
        paths: the files; each runs once per process.

    Raises:
        OptionError: a file cannot be read, or fails.
    """
    for path in paths:
        # Without dots, so that what the module defines can be pickled.
        digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
        name = f"speechprune_ort_plugin_{digest[:16]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise OptionError(f"{path} is not a Python file: give one that registers a method.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with contained(f"The plugin {path}"):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise


def sources_of(plugins: Iterable[Path], names: Iterable[str]) -> list[str]:
    """Digests of the code that results depend on and that is not this package's.

    Args:
        plugins: files that register methods.
        names: methods that are used: one may have been registered by a module that is no plugin.

    Returns:
        The sha256 of each file, in hex and in order; of a method that no file has, of what it is
        compiled to.

    Raises:
        OptionError: a file cannot be read.
    """
    files, found = {os.path.realpath(path) for path in plugins}, set[str]()
    for name in names:
        select = METHODS[name].select
        module = str(getattr(select, "__module__", ""))
        if module.startswith("speechprune_ort."):
            continue
        file = getattr(sys.modules.get(module), "__file__", None)
        if file:
            files.add(os.path.realpath(file))
        else:  # typed into an interpreter
            code = getattr(select, "__code__", getattr(type(select).__call__, "__code__", None))
            found.add(hashlib.sha256(marshal.dumps(code)).hexdigest())
    for path in map(Path, files):
        try:
            found.add(sha256_of(path))
        except OSError as error:
            raise OptionError(
                f"{path} cannot be read ({error.strerror}): give a file that you may read."
            ) from None
    return sorted(found)
