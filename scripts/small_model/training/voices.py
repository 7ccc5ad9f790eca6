"""Free synthetic voices: flite, espeak-ng, hibari's, and Piper's, with espeak-ng's phonemes.

The first two are commands (Debian: ``apt-get install flite espeak-ng``). Piper itself (GPL-3) is
not needed: a voice of its is an ONNX model from phonemes to samples.
"""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from speechprune_ort.errors import PartError

Samples = npt.NDArray[np.float32]

RATE = 16_000  # Hz, what the encoder hears
LEVEL = 0.06  # root mean square that speech is brought to before noise is added
TYPOGRAPHY = str.maketrans({
    "\u2014": ", ", "\u2013": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
    "\u2026": "...",
})  # fmt: skip
# Share of the sentences. flite's awb is never among them: it is the voice that was never heard.
VOICES = {
    "hibari:heart": 0.28,
    "piper:joe": 0.22,
    "flite:slt": 0.16,
    "flite:rms": 0.14,
    "flite:kal16": 0.05,
    "espeak:en-us+m3": 0.04,
    "espeak:en-us+f2": 0.04,
    "espeak:en-us+m7": 0.04,
    "espeak:en-gb-scotland": 0.03,
}
NEVER_HEARD = "flite:awb"
# A clause, or one mark of punctuation; "30,000" and "3.5" are not divided.
CLAUSES = re.compile(r"(?:[^,.;:!?]|[,.:](?=\d))+|[,.;:!?]")


def leveled(samples: Samples, level: float = LEVEL) -> Samples:
    """Samples with a root mean square of ``level``."""
    power = float(np.sqrt(np.mean(np.square(samples)))) + 1e-6
    scaled: Samples = (samples * np.float32(level / power)).astype(np.float32)
    return scaled


def resampled(wave: npt.NDArray[Any], rate: float, quality: str = "HQ") -> Samples:
    """Samples at ``rate`` Hz as those at 16 kHz."""
    samples: Samples = soxr.resample(wave, rate, RATE, quality=quality).astype(np.float32)
    return samples


def plain(text: str) -> str:
    r"""Text in ASCII as every engine reads it: typographic quotes and dashes replaced.

    >>> plain("caf\u00e9 \u2014 it\u2019s")
    "cafe , it's"
    """
    decomposed = unicodedata.normalize("NFKD", text.translate(TYPOGRAPHY))
    return re.sub(r"\s+", " ", decomposed.encode("ascii", "ignore").decode()).strip()


def output_of(command: Sequence[str], text: str = "") -> bytes:
    """What a command writes when it reads a text."""
    try:
        return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise PartError(
            f"{command[0]} does not speak ({error}): apt-get install flite espeak-ng."
        ) from error


def read_wav(content: bytes) -> Samples:
    """Samples of a WAV file, (n,) at 16 kHz."""
    return resampled(*soundfile.read(io.BytesIO(content), dtype="float32"))


def phonemes(clause: str) -> list[str]:
    """IPA of a clause without punctuation, one string a spoken group of words."""
    said = output_of(["espeak-ng", "-v", "en-us", "-q", "--ipa", "--stdin"], clause).decode()
    return re.sub(r"\(.*?\)", "", said).split()


class Piper:
    """A Piper voice, run by onnxruntime, of an ``.onnx`` file with its ``.onnx.json`` beside it."""

    def __init__(self, model: Path) -> None:
        import onnxruntime

        config = json.loads(model.with_name(model.name + ".json").read_text(encoding="utf-8"))
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._rate = int(config["audio"]["sample_rate"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )

    def say(self, text: str, length: float) -> Samples:
        """Speak plain text, ``length`` times as slowly as the voice's own speed."""
        sounds = ["^"]
        for clause in CLAUSES.findall(text):
            if len(clause) == 1 and not clause.isalnum():
                sounds.append(clause)
            else:
                for group in phonemes(clause):
                    sounds += [*unicodedata.normalize("NFD", group), " "]
        ids = [i for sound in sounds for i in (*self._ids.get(sound, []), *self._ids["_"])]
        ids += self._ids["$"]
        given = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": np.array([0.667, length, 0.8], dtype=np.float32),  # noise, of durations last
        }
        (audio,) = self._session.run(None, given)
        return resampled(audio.reshape(-1), self._rate)


class Speaker:
    """All engines behind one call; those that need files of their own are loaded when they speak.

    ``piper`` is the Piper voice's ``.onnx`` file, where that voice is to be used.
    """

    def __init__(self, piper: Path | None, rng: random.Random) -> None:
        self._piper_file, self.rng = piper, rng

    @cached_property
    def _piper(self) -> Piper:
        if self._piper_file is None:
            raise PartError("The voice piper:joe needs its file: see Speaker.")
        return Piper(self._piper_file)

    @cached_property
    def _hibari(self) -> Any:
        from hibari import Hibari

        return Hibari()

    def choose(self) -> str:
        """A training voice by its share."""
        return self.rng.choices(list(VOICES), list(VOICES.values()))[0]

    def say(self, text: str, voice: str, vary: bool = True) -> Samples:
        """Speak plain text; with ``vary`` at another pace and pitch each time."""
        engine, name = voice.split(":")
        rng = self.rng
        if engine == "flite":
            command = ["flite", "-voice", name, "-t", text, "-o", "/dev/stdout"]
            samples = read_wav(output_of(command))
        elif engine == "espeak":
            rate, pitch = (rng.randint(135, 200), rng.randint(25, 75)) if vary else (160, 50)
            command = ["espeak-ng", "-v", name, "-s", str(rate), "-p", str(pitch)]
            command += ["-z", "--stdin", "--stdout"]  # -z: no pause at the end
            samples = read_wav(output_of(command, text))
        elif engine == "piper":
            samples = self._piper.say(text, rng.uniform(0.85, 1.2) if vary else 1.0)
        else:
            pace = rng.uniform(0.85, 1.25) if vary else 1.0
            wave = self._hibari(text, speed=pace, seed=rng.getrandbits(31))
            samples = resampled(wave, 24_000, "MQ")
        return leveled(samples)
