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


def templates(text: str) -> tuple[tuple[str, ...], ...]:
    """Lines of three entries between bars."""
    return tuple(listed(line, "|") for line in text.strip().splitlines())


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
FOODS = listed("""
bread rice apples cheese fish beans soup chicken salad potatoes carrots noodles honey mushrooms
oranges pancakes chocolate
""")
JOBS = listed(
    """
teacher, nurse, carpenter, pilot, lawyer, baker, farmer, engineer, plumber, dentist, journalist,
gardener, photographer, driver, painter, librarian, police officer, tailor
""",
    ",",
)
PLACES = listed(
    """
hospital, school, bakery, station, airport, theatre, market, church, post office, swimming pool,
town hall, factory, hotel, park, lighthouse, car park, fire station, bookshop
""",
    ",",
)
VEHICLES = listed("""
bus train truck van taxi ferry plane tram motorcycle car
""")

# Statement | question | answer. Slots in capitals are filled anew for each fact, equal slots of a
# fact alike; a 2 behind a slot asks for another filling.
TEMPLATES = templates("""
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
NAME is bringing FOOD and FOOD2 for lunch. | Who is bringing lunch? | NAME
NAME is bringing FOOD and FOOD2 for lunch. | What is NAME bringing for lunch? | FOOD and FOOD2
The VEHICLE to CITY leaves at CLOCK. | When does the VEHICLE to CITY leave? | At CLOCK
The VEHICLE to CITY leaves at CLOCK. | Where does the VEHICLE go? | To CITY
My neighbour NAME is a JOB. | What does NAME do for a living? | A JOB
We hired a JOB named FULLNAME. | Who was hired as a JOB? | FULLNAME
My uncle NAME lived in CITY for COUNT years. | How long did NAME live in CITY? | COUNT years
The JOB said that the GOOD must be replaced. | What must be replaced? | The GOOD
The JOB said that the GOOD must be replaced. | Who said that the GOOD must be replaced? | The JOB
Our PLACE opens again on DAY at CLOCK. | When does the PLACE open again? | On DAY at CLOCK
There is a PLACE behind the PLACE2. | What is behind the PLACE2? | A PLACE
We will meet NAME in front of the PLACE at CLOCK. | Where will they meet NAME? | In front of the PLACE
It took COUNT hours to drive from CITY to CITY2. | How long did the drive take? | COUNT hours
It took COUNT hours to drive from CITY to CITY2. | From where did they drive to CITY2? | From CITY
The tower in CITY is COUNT metres high. | How high is the tower in CITY? | COUNT metres
NAME lost the keys of the ROOM. | What did NAME lose? | The keys of the ROOM
NAME lost the keys of the ROOM. | Who lost the keys of the ROOM? | NAME
The JOB gave NAME a COLOUR GOOD. | What did the JOB give NAME? | A COLOUR GOOD
The JOB gave NAME a COLOUR GOOD. | Who gave NAME the GOOD? | The JOB
The meeting about the THING was moved from DAY to DAY2. | To which day was the meeting moved? | To DAY2
Call NAME at extension COUNT about the THING. | Which extension does NAME have? | COUNT
Only COUNT of the COUNT2 seats were taken. | How many seats were taken? | COUNT
The THING has been delayed by COUNT days. | By how many days is the THING late? | COUNT
A pound of FOOD costs COUNT dollars now. | How much does a pound of FOOD cost? | COUNT dollars
The mayor of CITY wants to build a PLACE. | What does the mayor of CITY want to build? | A PLACE
The mayor of CITY wants to build a PLACE. | Who wants to build a PLACE? | The mayor of CITY
NAME and NAME2 were married in CITY in MONTH. | Where were NAME and NAME2 married? | In CITY
NAME and NAME2 were married in CITY in MONTH. | In which month did NAME marry? | In MONTH
NAME and NAME2 will share the ROOM. | Who will share the ROOM? | NAME and NAME2
The storm damaged the PLACE near CITY. | What did the storm damage? | The PLACE near CITY
The storm damaged the PLACE near CITY. | What damaged the PLACE? | The storm
The thief escaped in a COLOUR VEHICLE. | How did the thief escape? | In a COLOUR VEHICLE
The thief escaped in a COLOUR VEHICLE. | What colour was the VEHICLE? | COLOUR
The doctor told NAME to eat more FOOD. | What should NAME eat more of? | FOOD
NAME is allergic to FOOD. | What is NAME allergic to? | FOOD
The winner of the race was FULLNAME from CITY. | Who won the race? | FULLNAME
The winner of the race was FULLNAME from CITY. | Where is the winner from? | From CITY
FULLNAME teaches TOPIC at the university of CITY. | What does FULLNAME teach? | TOPIC
FULLNAME teaches TOPIC at the university of CITY. | Who teaches TOPIC? | FULLNAME
The film about TOPIC lasts COUNT minutes. | How long is the film about TOPIC? | COUNT minutes
The film about TOPIC lasts COUNT minutes. | What is the film about? | TOPIC
Tickets for the THING are COUNT dollars each. | What does a ticket for the THING cost? | COUNT dollars
The fire started in the ROOM. | Where did the fire start? | In the ROOM
The fire was caused by an old GOOD. | What caused the fire? | An old GOOD
The museum was closed for COUNT weeks because of a broken GOOD. | Why was it closed? | A broken GOOD
NAME was late because the VEHICLE broke down. | Why was NAME late? | The VEHICLE broke down
NAME cancelled the trip to CITY because of the weather. | Why was the trip cancelled? | The weather
Please send the THING to NAME before DAY. | To whom should the THING be sent? | To NAME
Please send the THING to NAME before DAY. | What should be sent to NAME? | The THING
The ROOM and the ROOM2 will be cleaned on DAY. | When will the ROOM be cleaned? | On DAY
The floor of the ROOM is covered with MATERIAL. | What covers the floor of the ROOM? | MATERIAL
The statue was made of MATERIAL in the year COUNT. | What is the statue made of? | MATERIAL
The dog of NAME is called WORD. | What is the name of the dog? | WORD
The ship WORD sank near CITY. | Which ship sank near CITY? | The WORD
The ship WORD sank near CITY. | Where did the ship sink? | Near CITY
The village of WORD has COUNT hundred inhabitants. | How many people live in WORD? | COUNT hundred
The secret ingredient is WORD. | What is the secret ingredient? | WORD
NAME bought COUNT ANIMAL for the zoo in CITY. | How many ANIMAL did NAME buy? | COUNT
NAME bought COUNT ANIMAL for the zoo in CITY. | For which zoo were the ANIMAL bought? | The zoo in CITY
The ANIMAL were seen near the PLACE. | What was seen near the PLACE? | ANIMAL
The ANIMAL were seen near the PLACE. | Where were the ANIMAL seen? | Near the PLACE
The THING was written by NAME and checked by NAME2. | Who checked the THING? | NAME2
The THING was written by NAME and checked by NAME2. | Who wrote the THING? | NAME
It rained for COUNT days in CITY. | How many days did it rain? | COUNT
The course on TOPIC begins in MONTH and has COUNT places. | When does the course begin? | In MONTH
The course on TOPIC begins in MONTH and has COUNT places. | How many places does it have? | COUNT
NAME paid AMOUNT dollars to repair the VEHICLE. | How much did the repair cost? | AMOUNT dollars
NAME paid AMOUNT dollars to repair the VEHICLE. | What was repaired? | The VEHICLE
My favourite dish is FOOD with FOOD2. | What is the speaker's favourite dish? | FOOD with FOOD2
I would rather talk about TOPIC. | What would the speaker rather talk about? | TOPIC
I grew up in CITY and moved to CITY2. | Where did the speaker grow up? | In CITY
I grew up in CITY and moved to CITY2. | Where did the speaker move to? | To CITY2
My name is NAME and I am a JOB. | What is the name of the JOB? | NAME
My name is NAME and I am a JOB. | What is the speaker's job? | JOB
""")  # noqa: E501 - a template a line
# Only ever used by the stage evaluate: statements and questions of forms that no training has.
UNSEEN_TEMPLATES = templates("""
The parcel for NAME was left at the PLACE. | Where was the parcel left? | At the PLACE
The parcel for NAME was left at the PLACE. | For whom was the parcel? | For NAME
NAME has won COUNT medals for CITY. | How many medals has NAME won? | COUNT
FULLNAME discovered the ruins of WORD. | Who discovered the ruins? | FULLNAME
The interview with FULLNAME is on DAY. | When is the interview? | On DAY
The interview with FULLNAME is on DAY. | With whom is the interview? | With FULLNAME
We need a new GOOD for the ROOM. | What is needed for the ROOM? | A new GOOD
They celebrate the feast of WORD every MONTH. | When do they celebrate the feast? | Every MONTH
The train from CITY was COUNT minutes late. | How late was the train? | COUNT minutes
The train from CITY was COUNT minutes late. | Where did the train come from? | From CITY
Her grandmother sold FOOD in CITY. | What did her grandmother sell? | FOOD
The door of the PLACE is COLOUR. | What colour is the door? | COLOUR
The rent of the PLACE is AMOUNT dollars. | How high is the rent? | AMOUNT dollars
The exam in TOPIC takes place on DATE. | When is the exam? | On DATE
The exam in TOPIC takes place on DATE. | What is the exam about? | TOPIC
NAME repaired the GOOD with a piece of MATERIAL. | What was it repaired with? | A piece of MATERIAL
NAME repaired the GOOD with a piece of MATERIAL. | Who repaired the GOOD? | NAME
The JOB arrived by VEHICLE at CLOCK. | Who arrived at CLOCK? | The JOB
The JOB arrived by VEHICLE at CLOCK. | How did the JOB arrive? | By VEHICLE
""")
SLOT = re.compile(r"[A-Z]{3,}2?")


class FactMaker:
    """Draws facts.

    Args:
        rare: Words for the slot ``WORD``.
        rng: Source of chance.
        forms: What facts are made from.
    """

    def __init__(
        self,
        rare: Sequence[str],
        rng: random.Random,
        forms: Sequence[tuple[str, ...]] = TEMPLATES,
    ) -> None:
        self._rare, self._rng, self._forms = rare, rng, forms

    def _fill(self, slot: str) -> str:
        rng = self._rng
        lists = {
            "NAME": FIRST_NAMES, "LASTNAME": LAST_NAMES, "DAY": DAYS, "MONTH": MONTHS,
            "CITY": CITIES, "COLOUR": COLOURS, "THING": THINGS, "GOOD": GOODS, "ANIMAL": ANIMALS,
            "TOPIC": TOPICS, "ROOM": ROOMS, "MATERIAL": MATERIALS, "WORD": self._rare,
            "FOOD": FOODS, "JOB": JOBS, "PLACE": PLACES, "VEHICLE": VEHICLES,
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
        """One fact; equal slots of a template get equal words, numbered ones another."""
        sentence, question, answer = self._rng.choice(self._forms)
        filled: dict[str, str] = {}
        for slot in dict.fromkeys(SLOT.findall(sentence)):
            while (words := self._fill(slot.removesuffix("2"))) in filled.values():
                pass
            filled[slot] = words
        if "WORD WORD" in sentence:
            filled["WORD WORD"] = f"{self._fill('WORD')} {self._fill('WORD')}"

        def fill(text: str) -> str:
            text = re.sub(f"WORD WORD|{SLOT.pattern}", lambda m: filled[m[0]], text)
            text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
            return text[0].upper() + text[1:]

        return Fact(fill(sentence), fill(question), fill(answer))
