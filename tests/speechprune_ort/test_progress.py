"""What is drawn of a long task's progress on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

DRAWS = """
import contextlib, io, time
from speechprune_ort.progress import Steps

with Steps() as course:
    course("load checkpoint", 0.0)
    time.sleep(0.3)
    with contextlib.redirect_stderr(io.StringIO()):  # as exporters are kept from the terminal
        course("verify decoder", 0.5)
        time.sleep(0.5)
"""


def test_a_course_is_drawn_while_libraries_are_kept_quiet() -> None:
    main, end = pty.openpty()
    given = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", DRAWS], stderr=end, env=given)
    os.close(end)
    drawn = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:  # how a terminal ends on Linux
            piece = b""
        if not piece:
            break
        drawn += piece
    os.close(main)
    assert process.wait(60) == 0
    seen = drawn.decode()
    for words in ("load checkpoint", "verify decoder", " 50%", "left:"):
        assert words in seen


def test_a_course_is_not_drawn_elsewhere() -> None:
    done = subprocess.run([sys.executable, "-c", DRAWS], capture_output=True, check=True)
    assert done.stdout == done.stderr == b""
