"""People's lines out of free games and a telephone, with text by Whisper base's own decoder.

People's speech matters most for a model that shall hear people, and packages hold little of it.
Debian carries three adventure games whose several thousand lines are spoken by actors, and the
announcements of a telephone exchange. Nobody has written these lines down in a file that could be
read with ease; the decoder of the very model whose encoder is trained here writes them with few
errors, and is the second teacher.
"""

from __future__ import annotations

import io
import random
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from small_model.assemble import library
from small_model.training.spelling import spoken, words_of
from small_model.training.voices import RATE, Samples, leveled, plain, resampled
from speechprune_ort.errors import PartError

PACKAGES = {  # Debian's package, its version, a file or folder of what is spoken
    "queen": ("flight-of-the-amazon-queen", "1.0.0-9", "queen.1c"),
    "sky": ("beneath-a-steel-sky", "0.0372-8", "sky.dsk"),
    "drascula": ("drascula", "1.0+ds4-2", "drascula/en"),
    "telephone": ("asterisk-core-sounds-en-wav", "1.6.1-1", "en_US_f_Allison"),
}
QUEEN_HEADER, QUEEN_ENTRY = 15, struct.Struct(">12sxII")  # name, offset, size
SKY_ENTRY = struct.Struct("<H3s3s")  # number, offset, size and flags
SKY_FIRST_SPEECH = 50_000
SKY_LEAD, DRASCULA_LEAD = 90, 64  # bytes ahead of a line's samples
RAW_RATE = 11_025
RAW: dict[str, Any] = {  # samples of 8 bits without sign
    "dtype": "float32", "samplerate": RAW_RATE, "channels": 1, "format": "RAW", "subtype": "PCM_U8",
}  # fmt: skip
PACKS_AT_ONCE = 12  # that the decoder transcribes
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")

Packed = npt.NDArray[np.int16]
Line = tuple[Samples, int]  # and their rate


def fetch(name: str, folder: Path) -> Path:
    """Download a Debian package, unpack it (its programs are not run), and find what is spoken."""
    package, version, data = PACKAGES[name]
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(folder.glob(f"{name}/**/{data}"))):
        command = ["apt-get", "download", f"{package}={version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PartError(f"apt-get cannot download {package}: {done.stderr.strip()}.")
        archive = next(folder.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, folder / name], check=True)
        found = sorted(folder.glob(f"{name}/**/{data}"))
    return found[0]


def queen_entries(table: bytes) -> list[tuple[str, int, int]]:
    """Name, offset and size of each file in ``queen.1c``.

    >>> entry = b"C1.SB".ljust(12, bytes(1)) + bytes([1, 0, 0, 0, 7, 0, 0, 0, 2])
    >>> queen_entries(bytes(13) + bytes([0, 1]) + entry)
    [('C1.SB', 7, 2)]
    """
    count = int.from_bytes(table[13:15], "big")
    found = table[QUEEN_HEADER : QUEEN_HEADER + count * QUEEN_ENTRY.size]
    entries = QUEEN_ENTRY.iter_unpack(found)
    return [(name.split(b"\0")[0].decode("ascii"), at, size) for name, at, size in entries]


def sky_entries(table: bytes) -> list[tuple[int, int, int]]:
    """Number, offset and size of each uncompressed file in ``sky.dsk``, from ``sky.dnr``.

    >>> sky_entries(bytes([1, 0, 0, 0, 0x60, 0xC3, 5, 0, 0x80, 9, 0, 0]))
    [(50016, 80, 9)]
    """
    count = int.from_bytes(table[:4], "little")
    entries = []
    for number, *fields in SKY_ENTRY.iter_unpack(table[4:][: count * SKY_ENTRY.size]):
        offset, flags = (int.from_bytes(field, "little") for field in fields)
        start = (offset & 0x7FFFFF) << (4 if offset >> 23 else 0)
        if flags >> 22 == 0:
            entries.append((number, start, flags & 0x3FFFFF))
    return entries


def lines_of(name: str, place: Path) -> Iterator[Samples]:
    """Samples at 16 kHz of each line of a package, silence at its ends cut off."""
    for wave, rate in RECORDINGS[name](place):
        yield trimmed(resampled(wave, rate))


def queen_lines(place: Path) -> Iterator[Line]:
    """Out of one file with all of the game's files in it."""
    content = place.read_bytes()
    for name, offset, size in queen_entries(content):
        if name.endswith(".SB"):
            yield soundfile.read(io.BytesIO(content[offset : offset + size]))


def sky_lines(place: Path) -> Iterator[Line]:
    """Out of one file whose table lies in another."""
    content = place.read_bytes()
    for number, offset, size in sky_entries(place.with_suffix(".dnr").read_bytes()):
        if number >= SKY_FIRST_SPEECH and size > RAW_RATE // 2:
            samples = content[offset + SKY_LEAD : offset + size]
            yield soundfile.read(io.BytesIO(samples), **RAW)


def drascula_lines(place: Path) -> Iterator[Line]:
    """One file a line."""
    for path in sorted(place.glob("*.ALS")):
        samples = path.read_bytes()[DRASCULA_LEAD:]
        yield soundfile.read(io.BytesIO(samples), **RAW)


def telephone_lines(place: Path) -> Iterator[Line]:
    """One WAV file an announcement."""
    for path in sorted(place.rglob("*.wav")):
        yield soundfile.read(path)


RECORDINGS: dict[str, Callable[[Path], Iterator[Line]]] = {
    "queen": queen_lines,
    "sky": sky_lines,
    "drascula": drascula_lines,
    "telephone": telephone_lines,
}


def trimmed(samples: Samples) -> Samples:
    """Without what is 40 dB below the loudest 25 ms at both ends."""
    energy = np.convolve(np.square(samples), np.ones(400) / 400, "same")
    loud = np.flatnonzero(energy > max(1e-6, float(energy.max()) * 1e-4))
    return samples[max(0, loud[0] - 1200) : loud[-1] + 2000] if len(loud) else samples[:0]


def packed(lines: Iterator[tuple[str, Samples]], rng: random.Random) -> list[tuple[str, Packed]]:
    """Lines of one package one behind the other, with short pauses, in packs of 6 to 29 s."""
    packs: list[tuple[str, list[Samples]]] = []
    goal = filled = 0.0
    for game, samples in lines:
        seconds = len(samples) / RATE
        if not 0.4 <= seconds <= 29:
            continue
        pause = rng.uniform(0.1, 0.5)
        if not packs or filled + seconds + pause > goal or packs[-1][0] != game:
            packs.append((game, []))
            goal, filled = rng.uniform(6, 29), 0.0
        packs[-1][1].extend([leveled(samples), np.zeros(int(pause * RATE), np.float32)])
        filled += seconds + pause
    return [
        (game, (np.clip(np.concatenate(parts)[: 29 * RATE], -1, 1) * 32767).astype(np.int16))
        for game, parts in packs
    ]


def transcribe(whisper: Path, packs: Sequence[Packed]) -> Iterator[tuple[str, float, float]]:
    """Text, mean log-probability of a token, probability of no speech, by Whisper's own decoder.

    ``whisper`` is the folder of a CTranslate2 model with its ``tokenizer.json``.
    """
    import ctranslate2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(whisper / "tokenizer.json"))
    log_mel = library.WhisperFeatureExtractor()
    prompt = [tokenizer.token_to_id(token) for token in PROMPT]
    model: Any = ctranslate2.models.Whisper(
        str(whisper), device="cpu", compute_type="int8", intra_threads=1
    )
    for start in range(0, len(packs), PACKS_AT_ONCE):
        part = [pack / np.float32(32768) for pack in packs[start : start + PACKS_AT_ONCE]]
        features = log_mel(part, sampling_rate=RATE, return_tensors="np")["input_features"]
        results = model.generate(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(features, np.float32)),
            [prompt] * len(part),
            beam_size=1,
            return_scores=True,
            return_no_speech_prob=True,
            max_length=224,
        )
        for result in results:
            text = tokenizer.decode(result.sequences_ids[0])
            yield spoken(plain(text)), result.scores[0], result.no_speech_prob


def trusted(text: str, score: float, silence: float, seconds: float) -> bool:
    """Whether the decoder seems to have heard speech and not to have made it up.

    >>> trusted("we will meet again in may", -0.2, 0.01, 2.5)
    True
    >>> trusted("no no no no no no no no no no no no no no no no no no", -0.2, 0.01, 6.0)
    False
    """
    pace = len(words_of(text)) / seconds
    packing = len(text) / max(1, len(zlib.compress(text.encode())))
    return score > -0.55 and silence < 0.5 and 1 < pace < 5 and packing < 2.2
