"""All free voices behind one call."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from small_model.errors import SmallModelError
from small_model.training.piper import Piper
from small_model.training.voices import Espeak, Flite, Spoken

# Share of training sentences. flite's awb is not among them: evaluation has it for a voice that was
# never trained on. flite's kal is kal16 at half the rate, and festival's Debian voice is kal too.
VOICES = (
    ("flite:slt", 0.30),
    ("flite:rms", 0.22),
    ("flite:kal16", 0.10),
    ("espeak:en-us+m3", 0.06),
    ("espeak:en-us+f2", 0.06),
    ("espeak:en-us+m7", 0.06),
    ("espeak:en-us+klatt2", 0.04),
    ("piper:joe", 0.16),
)


class Speaker:
    """All engines behind one call, with random speed and level.

    Args:
        piper: The Piper voice's ``.onnx`` file; without it that voice is not used.
        rng: Source of chance.
    """

    def __init__(self, piper: Path | None, rng: random.Random) -> None:
        self._flite, self._espeak, self.rng = Flite(), Espeak(), rng
        self._piper = Piper(piper, self._espeak) if piper else None
        self._voices = [(name, share) for name, share in VOICES if piper or "piper" not in name]

    def choose(self) -> str:
        """A training voice by its share."""
        names, shares = zip(*self._voices, strict=True)
        return str(self.rng.choices(names, shares)[0])

    def say(self, text: str, voice: str, vary: bool = True) -> Spoken:
        """Speak plain text; with ``vary`` at another speed, pitch and level each time."""
        engine, name = voice.split(":")
        rng = self.rng
        if engine == "flite":
            spoken = self._flite.say(text, name)
        elif engine == "espeak":
            rate, pitch = (rng.randint(135, 190), rng.randint(30, 70)) if vary else (160, 50)
            spoken = self._espeak.say(text, name, rate, pitch)
        elif self._piper is not None:
            spoken = self._piper.say(text, rng.uniform(0.9, 1.15) if vary else 1.0)
        else:
            raise SmallModelError(f"{voice} needs the Piper voice: give --piper-voice.")
        if vary and engine != "espeak":
            spoken = spoken.faster(rng.choice([1.0, 1.0, 0.88, 0.92, 0.96, 1.04, 1.08, 1.14, 1.2]))
        rms = float(np.sqrt(np.mean(spoken.samples**2))) + 1e-6
        level = 10 ** rng.uniform(-1.6, -0.9) if vary else 0.06
        return Spoken(np.clip(spoken.samples * (level / rms), -1, 1), spoken.words)
