"""Audio to train on: texts spoken, mixed and turned into features with a label for each token."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from small_model.errors import UntimedError
from small_model.training.facts import Fact, FactMaker
from small_model.training.features import TOKEN_RATE, WINDOW_S, WINDOW_TOKENS, Half, Lower
from small_model.training.speaker import Speaker
from small_model.training.text import Dialogue, Lexicon, random_sentence
from small_model.training.voices import RATE, Samples, Spoken, plain
from speechprune_ort.files import whole_file

Labels = npt.NDArray[np.int32]

SHARD_WINDOWS = 24
OUTSIDE = -1  # label of tokens past the end of a short window
SPIRAL_PER_SHARD = 60  # sentences of SPIRAL that one shard uses up

TokenTime = tuple[int, float, float]  # id, start and end in seconds


def token_times(tokenizer: Any, text: str, spoken: Spoken) -> list[TokenTime]:
    """When each text token is spoken, letters of a word spread evenly over its time.

    The first token carries the space that it has inside a sentence. A mark of punctuation takes
    the pause that follows it.
    """
    if not spoken.words:
        return []
    points, times = [0], [spoken.words[0].start]
    for word in spoken.words:
        points += [word.first + 1, word.last + 1]
        times += [word.start, word.end]
    points.append(len(text) + 1)
    times.append(len(spoken.samples) / RATE)
    encoded = tokenizer(" " + text, return_offsets_mapping=True, add_special_tokens=False)
    found = []
    for token, (first, last) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        begin = first + 1 if first < last and (" " + text)[first] == " " else first
        # Just inside of both ends, where neighbouring words meet.
        start, end = np.interp([begin + 1e-3, last - 1e-3], points, times)
        found.append((token, float(start), float(end)))
    return found


def token_labels(count: int, times: Sequence[TokenTime], silence: int) -> Labels:
    """One text token for each of ``count`` audio tokens of 40 ms, ``silence`` between words.

    A token shorter than an audio token still gets one.
    """
    labels = np.full(count, silence, dtype=np.int32)
    for token, start, end in times:
        begin = max(0, int(np.ceil(start * TOKEN_RATE - 0.5)))
        stop = max(begin + 1, int(np.ceil(end * TOKEN_RATE - 0.5)))
        labels[begin:stop] = token
    return labels


@dataclass
class Stream:
    """Speech that grows sentence by sentence and is taken off in windows."""

    speaker: Speaker
    tokenizer: Any

    def __post_init__(self) -> None:
        self._pieces: list[Samples] = []
        self._times: list[TokenTime] = []
        self._length = 0

    @property
    def seconds(self) -> float:
        """What lies ready."""
        return self._length / RATE

    def add(self, text: str, voice: str, vary: bool = True) -> tuple[float, float]:
        """Speak a sentence and a pause; where it lies, in seconds. Untimeable text is skipped."""
        text = plain(text)
        try:
            spoken = self.speaker.say(text, voice, vary)
        except UntimedError:
            return self.seconds, self.seconds
        offset = self.seconds
        times = token_times(self.tokenizer, text, spoken)
        self._times += [(token, start + offset, end + offset) for token, start, end in times]
        pause = self.speaker.rng.uniform(0.05, 0.45) if vary else 0.25
        self._pieces += [spoken.samples, np.zeros(int(pause * RATE), dtype=np.float32)]
        self._length += len(spoken.samples) + len(self._pieces[-1])
        return offset, offset + len(spoken.samples) / RATE

    def take(self, seconds: float) -> tuple[Samples, list[TokenTime]]:
        """Cut the first ``seconds`` off, or all that is there."""
        whole = np.concatenate([*self._pieces, np.zeros(0, dtype=np.float32)])
        count = min(len(whole), int(seconds * RATE))
        self._pieces, self._length = [whole[count:]], len(whole) - count
        cut = count / RATE
        times = [item for item in self._times if item[1] < cut]
        self._times = [(t, a - cut, b - cut) for t, a, b in self._times if b > cut]
        return whole[:count], times


def with_noise(samples: Samples, rng: random.Random) -> Samples:
    """Add light white noise to a third of all windows."""
    if rng.random() > 0.33:
        return samples
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(samples))
    noisy: Samples = (samples + noise * 10 ** rng.uniform(-4, -2.4)).astype(np.float32)
    return noisy


def align_texts(
    sentences: Sequence[str], lexicon: Lexicon, rng: random.Random, start: int
) -> Iterator[str]:
    """Endless text for alignment: SPIRAL's sentences in turn, random words, facts."""
    facts = FactMaker(lexicon.single + lexicon.double, rng)
    cursor = start
    while True:
        draw = rng.random()
        if draw < 0.52:
            yield sentences[cursor % len(sentences)]
            cursor += 1
        elif draw < 0.85:
            yield random_sentence(lexicon, rng)
        else:
            yield facts.fact().sentence


def make_align_shard(
    path: Path, texts: Iterator[str], stream: Stream, lower: Lower, silence: int
) -> float:
    """Write one shard of windows of 30 s, a fifth of them shorter; seconds of audio in it.

    ``PATH.npy`` holds features, (windows, 1500, width) float16, zero past a window's end;
    ``PATH.labels.npy`` holds (windows, 750) int32, ``OUTSIDE`` past it.
    """
    rng, total = stream.speaker.rng, 0.0
    hidden_states: list[Half] = []
    labels = np.full((SHARD_WINDOWS, WINDOW_TOKENS), OUTSIDE, dtype=np.int32)
    for window in range(SHARD_WINDOWS):
        length = float(WINDOW_S) if rng.random() < 0.8 else rng.uniform(4, 15)
        while stream.seconds < length:
            stream.add(next(texts), stream.speaker.choose())
        samples, times = stream.take(length)
        hidden = lower(with_noise(samples, rng))
        hidden_states.append(np.pad(hidden, ((0, 2 * WINDOW_TOKENS - len(hidden)), (0, 0))))
        labels[window, : len(hidden) // 2] = token_labels(len(hidden) // 2, times, silence)
        total += len(samples) / RATE
    np.save(path.with_suffix(".labels.npy"), labels)
    with whole_file(path.with_suffix(".npy")) as partial:  # last: what has features is complete
        np.save(partial, np.stack(hidden_states))
    return total


@dataclass(frozen=True)
class Clip:
    """A spoken text of any length with questions that it answers.

    Attributes:
        kind: ``key``, ``context``, ``whole`` or ``facts``.
        name: Id of the dialogue, or a number.
        voice: As in ``VOICES``.
        text: What is said.
        questions: (question, answer).
        frames: Encoder frames of each window of 30 s.
    """

    kind: str
    name: str
    voice: str
    text: str
    questions: tuple[tuple[str, str], ...]
    frames: tuple[int, ...]


def speak_clip(
    sentences: Sequence[str], stream: Stream, voices: Sequence[str], vary: bool = True
) -> tuple[Samples, list[TokenTime]]:
    """Speak sentences, a random one of ``voices`` each, as one recording."""
    for sentence in sentences:
        stream.add(sentence, stream.speaker.rng.choice(voices), vary)
    return stream.take(1e9)


def clip_windows(
    samples: Samples, times: Sequence[TokenTime], lower: Lower, silence: int
) -> tuple[list[Half], list[Labels]]:
    """Features and labels of consecutive windows of 30 s."""
    features, labels = [], []
    for start in range(0, len(samples), WINDOW_S * RATE):
        piece = samples[start : start + WINDOW_S * RATE]
        if len(piece) < RATE // 5:
            continue
        hidden, shift = lower(piece), start / RATE
        moved = [(t, a - shift, b - shift) for t, a, b in times if b > shift]
        features.append(hidden)
        labels.append(token_labels(len(hidden) // 2, moved, silence))
    return features, labels


def clip_texts(
    dialogue: Dialogue, facts: FactMaker, rng: random.Random, whole: bool = True
) -> Iterator[tuple[str, list[str], list[tuple[str, str]]]]:
    """Recordings made from one dialogue: kind, sentences, questions with answers.

    Args:
        dialogue: Its sentences stand around facts, too.
        facts: Draws them.
        rng: Source of chance.
        whole: Whether to make the key sentence alone and the whole dialogue.
    """
    asked = (dialogue.question, dialogue.choices[dialogue.answer])
    key = [dialogue.sentences[index] for index in dialogue.key]
    if whole:
        yield "key", key, [asked]
    low, high = max(0, dialogue.key[0] - rng.randint(0, 2)), dialogue.key[-1] + rng.randint(1, 3)
    yield "context", list(dialogue.sentences[low:high]), [asked]
    if whole:
        fact = facts.fact()
        mixed = list(dialogue.sentences)
        mixed.insert(rng.randint(0, len(mixed)), fact.sentence)
        yield "whole", mixed, [asked, asked, (fact.question, fact.answer)]
    for _ in range(4):
        made: list[Fact] = [facts.fact() for _ in range(rng.randint(1, 4))]
        around = rng.sample(dialogue.sentences, min(rng.randint(0, 2), len(dialogue.sentences)))
        spoken = [fact.sentence for fact in made] + around
        rng.shuffle(spoken)
        yield "facts", spoken, [(fact.question, fact.answer) for fact in made]


def write_clips(path: Path, clips: list[tuple[Clip, list[Half], list[Labels]]]) -> None:
    """``PATH.npy``, ``PATH.labels.npy`` and ``PATH.json``, windows one behind the other."""
    np.save(path.with_suffix(".labels.npy"), np.concatenate([x for c in clips for x in c[2]]))
    content = json.dumps([asdict(clip) for clip, _, _ in clips])
    path.with_suffix(".json").write_text(content, encoding="utf-8")
    with whole_file(path.with_suffix(".npy")) as partial:
        np.save(partial, np.concatenate([x for clip in clips for x in clip[1]]))


def read_clips(path: Path) -> Iterator[tuple[Clip, list[Half], list[Labels]]]:
    """What :func:`write_clips` wrote; features stay on disk until they are used."""
    features = np.load(path.with_suffix(".npy"), mmap_mode="r")
    labels = np.load(path.with_suffix(".labels.npy"))
    frame = token = 0
    for entry in json.loads(path.with_suffix(".json").read_text(encoding="utf-8")):
        questions = tuple((q, a) for q, a in entry.pop("questions"))
        clip = Clip(**{**entry, "questions": questions, "frames": tuple(entry["frames"])})
        windows, marks = [], []
        for frames in clip.frames:
            windows.append(np.array(features[frame : frame + frames]))
            marks.append(labels[token : token + frames // 2])
            frame, token = frame + frames, token + frames // 2
        yield clip, windows, marks


def make_clips(
    path: Path,
    dialogues: Sequence[Dialogue],
    facts: FactMaker,
    stream: Stream,
    lower: Lower,
    silence: int,
    whole: bool,
    step: Callable[[float], None],
) -> None:
    """Speak every recording of :func:`clip_texts` and write them as one shard."""
    rng, clips = stream.speaker.rng, []
    for dialogue in dialogues:
        for kind, sentences, questions in clip_texts(dialogue, facts, rng, whole):
            voices = [stream.speaker.choose() for _ in range(1 if rng.random() < 0.6 else 2)]
            samples, times = speak_clip(sentences, stream, voices)
            windows, labels = clip_windows(with_noise(samples, rng), times, lower, silence)
            if not windows:  # the engine could not time a word of its only sentence
                continue
            frames = tuple(len(window) for window in windows)
            text = " ".join(sentences)
            voice = "+".join(voices)
            made = Clip(kind, dialogue.name, voice, text, tuple(questions), frames)
            clips.append((made, windows, labels))
            step(len(samples) / RATE)
    write_clips(path, clips)
