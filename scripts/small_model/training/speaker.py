"""All free voices behind one call."""

from __future__ import annotations

import random
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from small_model.training.rooms import leveled
from small_model.training.voices import RATE, Piper, Samples, espeak, flite
from speechprune_ort.errors import PartError

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


class Speaker:
    """All engines behind one call; those that need files of their own are loaded when they speak.

    Args:
        piper: The Piper voice's ``.onnx`` file, where that voice is to be used.
        rng: Source of chance.
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
        """Speak plain text; with ``vary`` at another pace and pitch each time.

        Returns:
            (n,) float32 at 16 kHz, at one level.

        Raises:
            PartError: the voice's program or file is missing.
        """
        engine, name = voice.split(":")
        rng = self.rng
        if engine == "flite":
            samples = flite(text, name)
        elif engine == "espeak":
            rate, pitch = (rng.randint(135, 200), rng.randint(25, 75)) if vary else (160, 50)
            samples = espeak(text, name, rate, pitch)
        elif engine == "piper":
            samples = self._piper.say(text, rng.uniform(0.85, 1.2) if vary else 1.0)
        else:
            pace = rng.uniform(0.85, 1.25) if vary else 1.0
            wave = self._hibari(text, speed=pace, seed=rng.getrandbits(31))
            samples = soxr.resample(wave, 24_000, RATE, quality="MQ").astype(np.float32)
        return leveled(samples)
