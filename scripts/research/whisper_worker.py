"""faster-whisper as a process: a line of JSON with a recording comes in, its words go out.

    python whisper_worker.py MODEL [--threads 2] [--beam 1]

MODEL is a folder with a Whisper in CTranslate2's format. An order is ``{"audio": path}``, an answer
``{"text": words, "seconds": time it took}`` or ``{"error": reason}``. Runs in the environment that
``faster_whisper_environment`` makes, which has nothing of this project.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter


def main() -> None:
    """Take orders until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--beam", type=int, default=1)
    arguments = parser.parse_args()
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print; answers alone go out
    from faster_whisper import WhisperModel

    whisper = WhisperModel(
        str(arguments.model), device="cpu", compute_type="int8", cpu_threads=arguments.threads
    )
    for line in sys.stdin:
        try:
            started = perf_counter()
            segments, _ = whisper.transcribe(
                json.loads(line)["audio"], language="en", beam_size=arguments.beam
            )
            text = " ".join(segment.text.strip() for segment in segments)
            answer = {"text": text, "seconds": perf_counter() - started}
        except Exception as error:  # the other end names the recording and goes on
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
