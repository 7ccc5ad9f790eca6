"""What is said in the example recording, by whom, and the questions about it.

Numbers are written as words, so that every voice says them alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TITLE = "Weekly meeting of the Harbour Library project"


@dataclass(frozen=True)
class Speaker:
    """The synthetic voice of a person."""

    engine: Literal["flite", "piper"]
    voice: str


@dataclass(frozen=True)
class Question:
    """A question about the recording.

    Attributes:
        question: As asked.
        answer: As a person would write it.
        accepted: Each a spelling that counts as right when an answer contains it, ignoring case.
        said_in: Words of the one sentence that holds the answer.
    """

    question: str
    answer: str
    accepted: tuple[str, ...]
    said_in: str


SPEAKERS: Mapping[str, Speaker] = {
    "Daniel": Speaker("piper", "en_US-joe-medium"),
    "Priya": Speaker("flite", "slt"),
    "Martin": Speaker("flite", "rms"),
}

TURNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Daniel",
        (
            "Good morning, and welcome to the weekly meeting of the Harbour Library project.",
            "I am Daniel, and Priya and Martin are here with me.",
            "First, the money.",
            "The city council has approved a budget of forty two thousand dollars.",
        ),
    ),
    (
        "Priya",
        (
            "That is good news.",
            "It is six thousand more than last year.",
            "I would like to spend the extra money on the reading room for children.",
        ),
    ),
    (
        "Martin",
        (
            "I agree.",
            "The roof above that room was repaired on the twelfth of March.",
            "It is dry now, so we can start painting.",
        ),
    ),
    ("Daniel", ("Who is going to do that, Martin?",)),
    (
        "Martin",
        (
            "A company called Bluebird Painters.",
            "They begin on Monday, the fourth of May, and they need five days.",
            "The walls will be yellow.",
        ),
    ),
    (
        "Priya",
        (
            "Yellow will look friendly.",
            "I have also ordered the furniture.",
            "Thirty small chairs and eight round tables will come by truck from Denver.",
            "My colleague Hannah will receive them, because she has the key to the back door.",
        ),
    ),
    (
        "Martin",
        (
            "There is one problem.",
            "The old heating is too loud.",
            "A new pump costs nine hundred dollars.",
        ),
    ),
    (
        "Daniel",
        (
            "Please order it, Martin.",
            "People who read want a quiet room.",
            "Now, Priya, what have you planned for the opening?",
        ),
    ),
    (
        "Priya",
        (
            "The opening party is on Saturday, the thirteenth of June, at three in the afternoon.",
            "The writer Oliver Grant will read from his new novel about pirates.",
        ),
    ),
    (
        "Daniel",
        (
            "Wonderful.",
            "I will write the invitations before Friday.",
            "Our next meeting is on Tuesday in room seven.",
            "Thank you, and goodbye.",
        ),
    ),
)

QUESTIONS: tuple[Question, ...] = (
    Question(
        "How large is the budget that the city council has approved?",
        "42,000 dollars",
        ("forty two thousand", "forty-two thousand", "42 thousand", "42,000", "42000"),
        "approved a budget",
    ),
    Question(
        "When was the roof repaired?",
        "On the 12th of March",
        ("twelfth of march", "12th of march", "march 12", "12 march"),
        "The roof above",
    ),
    Question(
        "Which company will paint the room?",
        "Bluebird Painters",
        ("bluebird", "blue bird"),
        "A company called",
    ),
    Question(
        "What colour will the walls be?",
        "Yellow",
        ("yellow",),
        "The walls will be",
    ),
    Question(
        "How many small chairs have been ordered?",
        "30",
        ("thirty", "30"),
        "small chairs",
    ),
    Question(
        "Who will receive the furniture?",
        "Hannah",
        ("hannah", "hanna"),
        "My colleague",
    ),
    Question(
        "How much does a new pump cost?",
        "900 dollars",
        ("nine hundred", "900"),
        "A new pump",
    ),
    Question(
        "When is the opening party?",
        "On Saturday the 13th of June at three in the afternoon",
        ("thirteenth of june", "13th of june", "june 13", "13 june"),
        "The opening party",
    ),
    Question(
        "What is Oliver Grant's new novel about?",
        "Pirates",
        ("pirate",),
        "Oliver Grant",
    ),
    Question(
        "In which room is the next meeting?",
        "Room seven",
        ("room seven", "room 7"),
        "Our next meeting",
    ),
)
