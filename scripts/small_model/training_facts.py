"""Made-up facts with questions that a few words of them answer."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """A made-up statement, and a question that a few words of it answer."""

    sentence: str
    question: str
    answer: str


def listed(text: str, separator: str | None = None) -> tuple[str, ...]:
    """Entries of a text, between blanks or another separator."""
    return tuple(" ".join(entry.split()) for entry in text.strip().split(separator))


ONES = listed("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen
""")
TENS = listed("""
_ _ twenty thirty forty fifty sixty seventy eighty ninety
""")
ORDINALS = listed("""
first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
""")


def number_words(value: int) -> str:
    """A number below a million in words, as it is spoken.

    >>> number_words(42_350)
    'forty two thousand three hundred fifty'
    """
    if value >= 1000:
        rest = value % 1000
        return f"{number_words(value // 1000)} thousand" + (
            f" {number_words(rest)}" if rest else ""
        )
    if value >= 100:
        rest = value % 100
        return f"{ONES[value // 100]} hundred" + (f" {number_words(rest)}" if rest else "")
    if value >= 20:
        return TENS[value // 10] + (f" {ONES[value % 10]}" if value % 10 else "")
    return ONES[value]


def ordinal_words(day: int) -> str:
    """A day of the month in words: ``thirty first`` for 31."""
    if day <= 20:
        return ORDINALS[day - 1]
    return "thirtieth" if day == 30 else f"{TENS[day // 10]} {ORDINALS[day % 10 - 1]}"


FIRST_NAMES = listed("""
Alice Robert Maria James Linda Kevin Susan Brian Karen Peter Laura Thomas Nancy George Helen
Samuel Diana Victor Emma Frank Julia Henry Rachel Carlos Sofia Ahmed Leila Marcus Olivia
Paul Grace Simon Claire Jason Nina Walter Ruth Adrian Monica Eric Fiona Oscar Teresa Philip
Angela Raymond Jasmine Arthur Bella Dennis Elena Gordon Irene Jack Kate Leo Mia Nathan Paula
Quentin Rosa Stephen Tara Ursula Vincent Wendy Xavier Yvonne Zachary Amanda Benjamin
Charlotte Douglas Eleanor Felix Gloria Harold Isabel Jeremy Kimberly Lawrence Melissa
Nicholas Patricia Russell
""")
LAST_NAMES = listed("""
Smith Johnson Carter Walker Bennett Foster Howard Perry Griffin Russell Hayes Coleman
Jenkins Fisher Marshall Owens Harrison Gibson Ford Stevens Porter Hunter Hicks Crawford
Henry Boyd Mason Kennedy Warren Dixon Ramos Burns Gordon Shaw Holmes Rice Robertson Hunt
Black Daniels Palmer Mills Nichols Knight Ferguson Stone Hawkins Dunn Perkins Hudson Spencer
Gardner Payne Pierce Berry
""")
DAYS = listed("""
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
""")
MONTHS = listed("""
January February March April May June July August September October November December
""")
CITIES = listed("""
Boston Chicago Paris London Berlin Tokyo Madrid Rome Vienna Dallas Seattle Toronto Sydney
Cairo Lisbon Dublin Oslo Prague Athens Houston Portland Phoenix Atlanta Miami Detroit
Baltimore Geneva Munich Hamburg Milan Naples Moscow Delhi Bangkok Singapore Manila Nairobi
Lima Santiago Havana
""")
COLOURS = listed("""
red blue green orange purple brown black white grey pink silver golden
""")
ANIMALS = listed("""
elephants wolves bees dolphins horses eagles penguins spiders tigers bears foxes owls
""")
THINGS = listed(
    """
report, budget plan, website, contract, survey, brochure, training course, database, press
release, product catalogue, safety manual, customer list, research paper, invoice, mobile
app, newsletter, marketing campaign, design draft, software update, annual review, grant
proposal, floor plan, delivery schedule, security audit, presentation, user guide, test
results, workshop, exhibition
""",
    ",",
)
GOODS = listed(
    """
printer, camera, bicycle, laptop, refrigerator, sofa, telescope, generator, microscope,
projector, carpet, engine, guitar, server, drill, tent, lamp, radio, freezer, boat, tractor,
window, mirror, desk, bookshelf, piano, vacuum cleaner, coffee machine, air conditioner,
telephone, sign, ladder
""",
    ",",
)
TOPICS = listed(
    """
climate change, ancient Egypt, modern poetry, ocean currents, jazz music, space travel,
medieval castles, human memory, solar energy, folk tales, railways, volcanoes, chess,
gardening, vaccines, cooking, mountain climbing, silent films, butterflies, languages,
bridges, sleep, robots, glaciers
""",
    ",",
)
ROOMS = listed(
    """
library, kitchen, garage, laboratory, basement, main hall, office, garden, studio, attic
""",
    ",",
)
MATERIALS = listed(
    """
wood, steel, glass, copper, cotton, leather, plastic, stone, paper, clay, wool
""",
    ",",
)

# Statement | question | answer. Slots in capitals are filled anew for each fact, equal slots of a
# fact alike.
TEMPLATES = tuple(
    listed(line, "|")
    for line in """
NAME is responsible for the THING. | Who is responsible for the THING? | NAME
NAME will finish the THING by DAY. | Who will finish the THING? | NAME
We need the THING by DAY at the latest. | When is the THING needed? | By DAY
The THING is due on DATE. | When is the THING due? | On DATE
The deadline of the THING is now DATE. | What is the new deadline of the THING? | DATE
The new GOOD costs AMOUNT dollars. | How much does the new GOOD cost? | AMOUNT dollars
We paid AMOUNT dollars for the GOOD. | How much was paid for the GOOD? | AMOUNT dollars
The budget for the THING is AMOUNT dollars. | What is the budget for the THING? | AMOUNT dollars
FULLNAME was chosen to lead the THING team. | Who was chosen to lead the THING team? | FULLNAME
The talk about TOPIC will be held in CITY. | Where will the talk about TOPIC be held? | In CITY
NAME is flying to CITY on DAY. | Where is NAME flying to? | To CITY
NAME is flying to CITY on DAY. | When is NAME flying to CITY? | On DAY
The old GOOD in the ROOM is COLOUR. | What colour is the old GOOD in the ROOM? | COLOUR
They painted the ROOM COLOUR last MONTH. | What colour was the ROOM painted? | COLOUR
COUNT people signed up for the THING. | How many people signed up for the THING? | COUNT
We ordered COUNT boxes of paper from CITY. | How many boxes of paper were ordered? | COUNT
The lecture on TOPIC starts at CLOCK. | When does the lecture on TOPIC start? | At CLOCK
FULLNAME wrote a book about TOPIC. | What did FULLNAME write a book about? | TOPIC
FULLNAME wrote a book about TOPIC. | Who wrote a book about TOPIC? | FULLNAME
The scientists in CITY are studying ANIMAL. | What are the scientists in CITY studying? | ANIMAL
The bridge near CITY is made of MATERIAL. | What is the bridge near CITY made of? | MATERIAL
The GOOD is stored in the ROOM. | Where is the GOOD stored? | In the ROOM
Sales grew by COUNT percent. | By how much did sales grow? | COUNT percent
My sister NAME was born in CITY on DATE. | Where was NAME born? | In CITY
My brother NAME works as a guide in CITY. | Who works as a guide in CITY? | NAME
They stopped because of the broken GOOD. | Why did they stop? | Because of the broken GOOD
Room COUNT is reserved for the THING on DAY. | Which room is reserved for the THING? | Room COUNT
The firm WORD and LASTNAME made the GOOD. | Which firm made the GOOD? | WORD and LASTNAME
The password of the week is WORD. | What is the password of the week? | WORD
Our new product is called WORD WORD. | What is the new product called? | WORD WORD
NAME said that the WORD was found in the ROOM. | What was found in the ROOM? | The WORD
In CITY it will be COUNT degrees on DAY. | How warm will it be in CITY? | COUNT degrees
""".strip().splitlines()
)
SLOT = re.compile(r"[A-Z]{3,}")


class FactMaker:
    """Draws facts.

    Args:
        rare: Words for the slot ``WORD``.
        rng: Source of chance.
    """

    def __init__(self, rare: Sequence[str], rng: random.Random) -> None:
        self._rare, self._rng = rare, rng

    def _fill(self, slot: str) -> str:
        rng = self._rng
        lists = {
            "NAME": FIRST_NAMES, "LASTNAME": LAST_NAMES, "DAY": DAYS, "MONTH": MONTHS,
            "CITY": CITIES, "COLOUR": COLOURS, "THING": THINGS, "GOOD": GOODS, "ANIMAL": ANIMALS,
            "TOPIC": TOPICS, "ROOM": ROOMS, "MATERIAL": MATERIALS, "WORD": self._rare,
        }  # fmt: skip
        if slot in lists:
            return rng.choice(lists[slot])
        if slot == "FULLNAME":
            return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
        if slot == "DATE":
            day = ordinal_words(rng.randint(1, 31))
            month = rng.choice(MONTHS)
            return f"the {day} of {month}" if rng.random() < 0.7 else f"{month} {day}"
        if slot == "CLOCK":
            return rng.choice(
                [
                    f"{ONES[rng.randint(1, 12)]} o'clock",
                    "noon",
                    "half past " + rng.choice(ONES[1:12]),
                ]
            )
        if slot == "AMOUNT":
            return number_words(rng.randint(2, 99) * rng.choice([1, 10, 100, 1000]))
        return number_words(rng.choice([rng.randint(2, 20), rng.randint(20, 99)]))

    def fact(self) -> Fact:
        """One fact; equal slots of a template get equal words."""
        sentence, question, answer = self._rng.choice(TEMPLATES)
        filled = {slot: self._fill(slot) for slot in set(SLOT.findall(sentence))}
        if "WORD WORD" in sentence:
            filled["WORD WORD"] = f"{self._fill('WORD')} {self._fill('WORD')}"

        def fill(text: str) -> str:
            text = re.sub(r"WORD WORD|[A-Z]{3,}", lambda m: filled[m[0]], text)
            return text[0].upper() + text[1:]

        return Fact(fill(sentence), fill(question), fill(answer))
