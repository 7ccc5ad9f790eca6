"""Free synthetic voices that say when each word is spoken, called in this process.

flite and espeak-ng are loaded as C libraries (Debian: ``apt-get install libflite1 espeak-ng``).
Both report times as they speak, so the labels of training cost nothing and no aligner is needed.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from small_model.errors import SmallModelError, UntimedError

Samples = npt.NDArray[np.float32]

RATE = 16_000  # Hz, what the encoder hears

ESPEAK_RETRIEVAL = 1  # espeak_AUDIO_OUTPUT_RETRIEVAL: return samples instead of playing them
ESPEAK_UTF8, ESPEAK_IPA = 1, 2
ESPEAK_RATE, ESPEAK_PITCH = 1, 3
ESPEAK_EVENT_WORD, ESPEAK_EVENT_LIST_END = 1, 0

TYPOGRAPHY = {
    "\u2014": ", ",
    "\u2013": "-",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2026": "...",
}


@dataclass(frozen=True)
class Word:
    """One spoken word: characters ``[first, last)`` of the text, seconds ``[start, end)``."""

    first: int
    last: int
    start: float
    end: float


@dataclass(frozen=True)
class Spoken:
    """A spoken text: ``samples`` (n,) float32 at 16 kHz and its words in order."""

    samples: Samples
    words: tuple[Word, ...]

    def faster(self, factor: float) -> Spoken:
        """The same played ``factor`` times as fast, pitch and formants with it."""
        if factor == 1.0:
            return self
        samples = soxr.resample(self.samples, RATE * factor, RATE, quality="QQ")
        words = (Word(w.first, w.last, w.start / factor, w.end / factor) for w in self.words)
        return Spoken(samples.astype(np.float32), tuple(words))


def plain(text: str) -> str:
    r"""Text in ASCII as every engine reads it: typographic quotes and dashes replaced.

    >>> plain("caf\u00e9 \u2014 it\u2019s")
    "cafe , it's"
    """
    for old, new in TYPOGRAPHY.items():
        text = text.replace(old, new)
    decomposed = unicodedata.normalize("NFKD", text)
    return re.sub(r"\s+", " ", decomposed.encode("ascii", "ignore").decode()).strip()


def unit(samples: npt.NDArray[np.int16]) -> Samples:
    """16-bit samples as float32 in [-1, 1)."""
    scaled: Samples = samples.astype(np.float32) / np.float32(32768)
    return scaled


class FliteWave(ctypes.Structure):
    """``cst_wave`` of flite."""

    _fields_ = [
        ("type", ctypes.c_char_p),
        ("rate", ctypes.c_int),
        ("samples", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("data", ctypes.POINTER(ctypes.c_short)),
    ]


class Flite:
    """flite's voices ``slt``, ``rms``, ``awb``, ``kal`` and ``kal16``.

    Raises:
        SmallModelError: flite's libraries are not installed.
    """

    def __init__(self) -> None:
        self._library = self._load("libflite.so.1")
        for name in ("libflite_usenglish.so.1", "libflite_cmulex.so.1"):
            self._load(name)
        self._library.flite_init()
        self._voices: dict[str, Any] = {}
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        self._synthesize = self._function("flite_synth_text", pointer, text, pointer)
        self._wave = self._function("utt_wave", pointer, pointer)
        self._relation = self._function("utt_relation", pointer, pointer, text)
        self._head = self._function("relation_head", pointer, pointer)
        self._next = self._function("item_next", pointer, pointer)
        self._parent = self._function("item_parent", pointer, pointer)
        self._as = self._function("item_as", pointer, pointer, text)
        self._number = self._function("ffeature_float", ctypes.c_float, pointer, text)
        self._string = self._function("ffeature_string", text, pointer, text)
        self._delete = self._function("delete_utterance", None, pointer)

    @staticmethod
    def _load(name: str) -> ctypes.CDLL:
        try:
            return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise SmallModelError(
                f"{name} cannot be loaded ({error}): apt-get install libflite1."
            ) from error

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function  # type: ignore[no-any-return]

    def _voice(self, name: str) -> Any:
        if name not in self._voices:
            register = getattr(
                self._load(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}"
            )
            register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
            self._voices[name] = register(None)
        return self._voices[name]

    def say(self, text: str, voice: str) -> Spoken:
        """Speak plain text.

        Raises:
            UntimedError: a spoken token cannot be found in the text.
        """
        utterance = self._synthesize(text.encode("ascii"), self._voice(voice))
        try:
            wave = ctypes.cast(self._wave(utterance), ctypes.POINTER(FliteWave)).contents
            raw = np.ctypeslib.as_array(wave.data, shape=(wave.samples,))
            samples, rate = unit(raw), int(wave.rate)
            words = self._words(utterance, text)
        finally:
            self._delete(utterance)
        if rate != RATE:
            samples = soxr.resample(samples, rate, RATE).astype(np.float32)
        return Spoken(samples, words)

    def _words(self, utterance: Any, text: str) -> tuple[Word, ...]:
        """One entry a token of the text; "42" is one token of two spoken words."""
        found: list[Word] = []
        item, previous, cursor = self._head(self._relation(utterance, b"Word")), None, 0
        first_segment = b"R:SylStructure.daughter1.daughter1.R:Segment.p.end"
        last_segment = b"R:SylStructure.daughtern.daughtern.R:Segment.end"
        while item:
            token = self._as(item, b"Token")
            token = self._parent(token) if token else None
            start, end = self._number(item, first_segment), self._number(item, last_segment)
            if token == previous and found:
                last = found[-1]
                found[-1] = Word(last.first, last.last, last.start, max(end, last.end))
            else:
                name = self._string(item, b"R:Token.parent.name").decode()
                first = text.find(name, cursor)
                if first < 0:
                    raise UntimedError(f"flite says {name!r}, which is not in {text!r}.")
                cursor = first + len(name)
                found.append(Word(first, cursor, start, end))
                previous = token
            item = self._next(item)
        return tuple(found)


class EspeakEvent(ctypes.Structure):
    """``espeak_EVENT``; the identifier's union is 8 bytes."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("identifier", ctypes.c_char * 8),
    ]


ESPEAK_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(EspeakEvent)
)


class Espeak:
    """espeak-ng: speech in its variants (``en-us+m3``), and phonemes for Piper.

    Raises:
        SmallModelError: espeak-ng is not installed.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise SmallModelError(
                f"espeak-ng cannot be loaded ({error}): apt-get install espeak-ng."
            ) from error
        self._rate = int(self._library.espeak_Initialize(ESPEAK_RETRIEVAL, 1000, None, 0))
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._voice = ""
        self._chunks: list[Samples] = []
        self._events: list[tuple[int, int, int, int]] = []
        self._callback = ESPEAK_CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            raw = np.ctypeslib.as_array(wave, shape=(count,))
            self._chunks.append(unit(raw))
        index = 0
        while events[index].type != ESPEAK_EVENT_LIST_END:
            event = events[index]
            self._events.append((event.type, event.position, event.length, event.sample))
            index += 1
        return 0

    def _select(self, voice: str) -> None:
        if voice != self._voice:
            if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise SmallModelError(f"espeak-ng has no voice {voice}: see espeak-ng --voices.")
            self._voice = voice

    def say(self, text: str, voice: str, rate: int = 165, pitch: int = 50) -> Spoken:
        """Speak plain text at ``rate`` words a minute and ``pitch`` of 0 to 99."""
        self._select(voice)
        self._library.espeak_SetParameter(ESPEAK_RATE, rate, 0)
        self._library.espeak_SetParameter(ESPEAK_PITCH, pitch, 0)
        self._chunks, self._events = [], []
        raw = text.encode("ascii")
        none = ctypes.c_void_p(None)
        self._library.espeak_Synth(
            raw, ctypes.c_size_t(len(raw) + 1), 0, 1, 0, ESPEAK_UTF8, none, none
        )
        self._library.espeak_Synchronize()
        samples = np.concatenate([*self._chunks, np.zeros(0, dtype=np.float32)])
        begins = [
            (position - 1, sample / self._rate)
            for kind, position, _, sample in self._events
            if kind == ESPEAK_EVENT_WORD and position <= len(text)
        ]
        words = words_of_events(text, begins, len(samples) / self._rate)
        samples = soxr.resample(samples, self._rate, RATE, quality="MQ").astype(np.float32)
        return Spoken(samples, words)

    def phonemes(self, text: str, voice: str = "en-us") -> list[str]:
        """IPA of a clause without punctuation, one string a spoken group of words."""
        self._select(voice)
        pointer = ctypes.c_char_p(text.encode("ascii"))
        spoken: list[str] = []
        while pointer.value is not None:
            raw = self._library.espeak_TextToPhonemes(
                ctypes.byref(pointer), ESPEAK_UTF8, ESPEAK_IPA
            )
            spoken += (raw or b"").decode("utf-8").split()
        return [re.sub(r"\(.*?\)", "", group) for group in spoken]


def words_of_events(
    text: str, begins: Sequence[tuple[int, float]], duration: float
) -> tuple[Word, ...]:
    """Words of a text from espeak-ng's events, which skip and divide some.

    >>> words_of_events("out of 1911", [(0, 0.0), (7, 0.4), (8, 0.6)], 1.0)
    (Word(first=0, last=6, start=0.0, end=0.4), Word(first=7, last=11, start=0.4, end=1.0))

    Args:
        text: What was spoken.
        begins: Character and time in seconds at which each reported word begins.
        duration: Of the whole, in seconds.
    """
    spans = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    first_time: dict[int, float] = {}
    for character, time in begins:
        index = next((i for i, (_, last) in enumerate(spans) if character < last), len(spans) - 1)
        first_time.setdefault(index, time)
    heard = sorted(first_time)
    words: list[Word] = []
    for index, after in zip(heard, [*heard[1:], len(spans)], strict=True):
        end = first_time.get(after, duration)
        start = min(first_time[index], end)
        words.append(Word(spans[index][0], spans[after - 1][1], start, end))
    return tuple(words)
