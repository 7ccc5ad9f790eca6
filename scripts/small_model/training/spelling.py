"""Text as it is spoken, its letters, and words cut into pieces of at most three letters.

A piece is a token of the language model. With whole tokens a fifth of the tokens of new text were
met fewer than 20 times in training, with pieces of three letters a twentieth.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable
from functools import cache
from itertools import groupby

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = {  # that are not the number with "th"
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip
SPACE = "\u0120"  # how byte-level BPE writes a space
LONGEST = 3  # letters of a piece
ALPHABET = "abcdefghijklmnopqrstuvwxyz'"
VOWELS = frozenset("aeiouy")
SOUNDS = ("aeiouy", "ckqg", "szx", "dt", "bp", "fv", "mn", "lr", "wu", "jg")  # taken for each other
# Costs of a cut, beside 1 for each piece: syllables begin with a consonant and a vowel.
CUT_BEFORE_SYLLABLE, CUT_ELSEWHERE, CUT_BEFORE_VOWEL = 0.0, 0.2, 0.4
# Where a letter stands: inside a piece, at the beginning of a piece, at the beginning of a word.
INSIDE, PIECE, WORD = range(3)
# Texts of the classes of letters: class 0 is CTC's blank, then 27 letters in those three places.
LETTER_CLASSES = ["", *(mark + letter for mark in ("", "|", SPACE) for letter in ALPHABET)]

ABBREVIATIONS = {"mr": "mister", "mrs": "missus", "ms": "miss", "dr": "doctor", "vs": "versus"}


def number_words(value: int) -> str:
    """A number below a million in words, as it is spoken.

    >>> number_words(42_350)
    'forty two thousand three hundred fifty'
    """
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if value >= size:
            rest = f" {number_words(value % size)}" if value % size else ""
            return f"{number_words(value // size)} {name}{rest}"
    if value >= 20:
        return TENS[value // 10] + (f" {ONES[value % 10]}" if value % 10 else "")
    return ONES[value]


def number(text: str) -> str:
    """Digits as they are read.

    >>> [number(text) for text in ("42", "1985", "1,200", "007")]
    ['forty two', 'nineteen eighty five', 'one thousand two hundred', 'zero zero seven']
    """
    digits = text.replace(",", "")
    value = int(digits)
    if len(digits) > 6 or (digits.startswith("0") and len(digits) > 1):
        return " ".join(ONES[int(digit)] for digit in digits)
    if len(text) == 4 and 1100 <= value < 2100 and value // 100 != 20:
        rest = value % 100
        end = "hundred" if rest == 0 else f"oh {ONES[rest]}" if rest < 10 else number_words(rest)
        return f"{number_words(value // 100)} {end}"
    return number_words(value)


def ordinal(value: int) -> str:
    """An ordinal number in words.

    >>> ordinal(4), ordinal(32), ordinal(120)
    ('fourth', 'thirty second', 'one hundred twentieth')
    """
    *ahead, last = number_words(value).split()
    ending = f"{last[:-1]}ieth" if last.endswith("y") else ORDINALS.get(last, f"{last}th")
    return " ".join([*ahead, ending])


def spoken(text: str) -> str:
    """Text with numbers and signs written as they are spoken; punctuation stays.

    >>> spoken("Dr. Lee paid $42 on the 4th, 10% more.")
    'doctor Lee paid forty two dollars on the fourth, ten percent more.'
    """
    text = re.sub(
        r"\b(\w+)\.", lambda m: ABBREVIATIONS.get(m[1].lower(), m[0]), text, flags=re.ASCII
    )
    text = re.sub(r"\$\s?(\d[\d,]*(?:\.\d+)?)", r"\1 dollars", text)
    text = text.replace("%", " percent").replace("&", " and ")
    text = re.sub(r"\b(\d{1,3})(?:st|nd|rd|th)\b", lambda m: ordinal(int(m[1])), text)
    text = re.sub(r"(\d)\.(?=\d)", r"\1 point ", text)
    text = re.sub(r"\d{1,3}(?:,\d{3})+|\d+", lambda m: f" {number(m[0])} ", text)
    return re.sub(r"\s+", " ", re.sub(r"\s+(?=[,.;:!?])", "", text)).strip()


def forms_of(text: str) -> list[str]:
    """Words of a spoken text as they are written, letters and apostrophes.

    >>> forms_of("It's well-known: 'Yes!'")
    ["It's", 'well', 'known', 'Yes']
    """
    found = re.findall(r"[A-Za-z']+", spoken(text).replace("\u2019", "'"))
    return [word for part in found if (word := part.strip("'"))]


def words_of(text: str) -> list[str]:
    """The words of :func:`forms_of` in lower case.

    >>> words_of("It's well-known: 'Yes!'")
    ["it's", 'well', 'known', 'yes']
    """
    return [form.lower() for form in forms_of(text)]


def word_errors(said: str, heard: str) -> tuple[int, int]:
    """Edit distance in words, case and punctuation ignored, and words said.

    >>> word_errors("The roof is dry.", "the roof was dry now")
    (2, 4)
    """
    left, right = (re.findall(r"[a-z0-9']+", text.lower()) for text in (said, heard))
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1], len(left)


def word_error_rate(counts: Iterable[tuple[int, int]]) -> float:
    """Errors over words said of several texts, from the :func:`word_errors` of each.

    >>> word_error_rate([(2, 4), (0, 6)])
    0.2
    """
    found = list(counts)
    return sum(wrong for wrong, _ in found) / max(1, sum(said for _, said in found))


class Cutter:
    """Cuts words into pieces that the language model has as tokens.

    Args:
        vocabulary: Token texts as byte-level BPE writes them; single letters are among them.
    """

    def __init__(self, vocabulary: Collection[str]) -> None:
        self._known = {t for t in vocabulary if len(t.removeprefix(SPACE)) <= LONGEST}
        self.cut = cache(self._cut)

    def _cut(self, word: str) -> tuple[str, ...]:
        """The pieces of a word, the first one with its space.

        Few pieces are better than many; among as few, those whose cuts lie before a consonant and
        a vowel, as between syllables.
        """
        best: list[tuple[float, tuple[str, ...]]] = [(0.0, ())]
        for end in range(1, len(word) + 1):
            options = []
            for start in range(max(0, end - LONGEST), end):
                piece = (SPACE if start == 0 else "") + word[start:end]
                if piece in self._known or end - start == 1:
                    cost, before = best[start]
                    options.append((cost + 1 + cut_cost(word, start), (*before, piece)))
            best.append(min(options))
        return best[-1][1]


def cut_cost(word: str, at: int) -> float:
    """What a cut before the letter ``at`` costs.

    >>> [cut_cost("under", at) for at in range(5)]
    [0.0, 0.2, 0.0, 0.4, 0.2]
    """
    if at == 0:
        return 0.0
    if word[at] in VOWELS:
        return CUT_BEFORE_VOWEL
    following = word[at + 1 : at + 2]
    return CUT_BEFORE_SYLLABLE if following and following in VOWELS else CUT_ELSEWHERE


def letter_ids(pieces: tuple[str, ...]) -> list[int]:
    """Classes of the letters of one word's pieces.

    >>> [LETTER_CLASSES[i] for i in letter_ids((SPACE + "un", "der"))]
    ['\u0120u', 'n', '|d', 'e', 'r']
    """
    ids = []
    for piece in pieces:
        for index, letter in enumerate(piece.removeprefix(SPACE)):
            place = INSIDE if index else WORD if piece.startswith(SPACE) else PIECE
            ids.append(1 + place * len(ALPHABET) + ALPHABET.index(letter))
    return ids


def read_letters(classes: list[int]) -> str:
    """Words of a sequence of letter classes, repetitions and blanks dropped.

    >>> read_letters([0, 63, 63, 0, 14, 14, 31])
    'ind'
    """
    text = "".join(LETTER_CLASSES[one] for one, _ in groupby(classes))
    return text.replace("|", "").replace(SPACE, " ").strip()


def misheard(word: str, rng: random.Random) -> str:
    """A word with one letter dropped, doubled or taken for one that sounds alike.

    >>> misheard("garden", random.Random(4))
    'gyrden'
    """
    at = rng.randrange(len(word))
    kind, rest = rng.random(), word[at + 1 :]
    if kind < 0.2 and len(word) > 2:
        return word[:at] + rest
    if kind < 0.3:
        return word[:at] + 2 * word[at] + rest
    alike = [letter for group in SOUNDS if word[at] in group for letter in group]
    return word[:at] + rng.choice(alike or [word[at]]) + rest
