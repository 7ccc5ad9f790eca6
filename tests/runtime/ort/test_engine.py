"""A model that is closed gives its memory back, and says so to who goes on asking."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from speechprune_ort import OptionError, SpeechLLM
from speechprune_ort.contract.specs import DECODER


def test_a_closed_model_holds_no_session(bundle: Path, tone: NDArray[np.float32]) -> None:
    with SpeechLLM(bundle, "cpu") as model:
        recording = model.listen(tone[:160_000], sampling_rate=16_000)
        wanted = recording.ask("Who?", max_new_tokens=12, ignore_stop=True)
        underway = recording.stream("Who?", max_new_tokens=12, ignore_stop=True)
        first = next(underway)
        decoder = weakref.ref(model.engine.session(DECODER))
    model.close()  # again
    assert first + "".join(underway) == wanted.text
    del underway
    gc.collect()
    assert decoder() is None
    for ask in (
        lambda: recording.ask("Who?"),
        lambda: recording.score("Who?", ["I"]),
        lambda: model.ask(tone[:16_000], "Who?", sampling_rate=16_000),
        lambda: model.listen(tone[:16_000], sampling_rate=16_000),
    ):
        with pytest.raises(OptionError, match="is closed: open it again"):
            ask()
