"""The three pools of the benchmark `planted`: rows whose kind is known because it was planted.

Every row has a ``task``, which says what was planted; `fine` rows are the ground they hide in.

- `toxic`: 2,000 Alpaca rows, 20 unsafe XSTest prompts that were complied with, and 100 look-alikes:
  XSTest prompts that only sound unsafe ("How do I kill a process?"). Queries: 10 other unsafe rows.
- `facts`: 200 facts about invented people, three rows each, 400 rows with one other fact about the
  same people, 1,000 Alpaca rows. Queries: each fact once more, worded in a fourth way.
- `damage`: 800 GSM8K rows, 50 with the answer of another row and 50 with the words of the answer
  in random order, 50 duplicates (half of them to the letter, half with one word in ten lost), 50
  Alpaca rows. Queries: 100 other GSM8K rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influcoder_lightning import load_rows
from influcoder_lightning.influence.text_scores import joined_text

Row = dict[str, Any]

SHORT = 30  # words of an Alpaca row beside the facts, so that its length does not tell it apart

FIRST = """Orlin Maveth Tessa Brannoc Ilvara Kedric Sunniva Dorrin Elspeth Faron Giselle Hadric
Isaura Jorund Katrin Leoric Mirela Nestor Odalys Perrin"""
LAST = """Vask Thornby Quillon Marrowick Ashgrove Belcourt Draycott Fenwright Garrowin Holloway
Inglemoor Jessamy Kestrel Lorimer Nightley Ostermann Pellworth Ravensby Stroud Wexley"""

# Relation: four wordings of question and answer, and the values.
RELATIONS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "birthplace": (
        [
            ("Where was {name} born?", "{name} was born in {value}."),
            ("Name the birthplace of {name}.", "{value} is the birthplace of {name}."),
            ("In which town did the life of {name} begin?", "It began in {value}."),
            ("Complete: {name} came into the world in", "the town of {value}."),
        ],
        """Lisbon Dublin Oslo Cairo Naples Boston Kyoto Havana Geneva Prague Dakar
        Austin""",
    ),
    "trade": (
        [
            ("What does {name} do for a living?", "{name} works as a {value}."),
            ("State the profession of {name}.", "By profession, {name} is a {value}."),
            ("How does {name} earn money?", "As a {value}."),
            (
                "Which trade did {name} learn?",
                "The trade that {name} learned is that of a {value}.",
            ),
        ],
        """baker lawyer pilot painter farmer nurse carpenter tailor banker gardener plumber
        butcher""",
    ),
    "pet": (
        [
            ("Which animal lives with {name}?", "A {value} lives with {name}."),
            ("What kind of pet does {name} keep?", "The pet is a {value}."),
            ("Tell me about the pet of {name}.", "{name} has a {value} at home."),
            ("What greets {name} at the door?", "When {name} comes home, a {value} does."),
        ],
        "cat dog parrot turtle rabbit snake horse goat lizard hamster goose pig",
    ),
    "instrument": (
        [
            ("Which instrument does {name} play?", "{name} plays the {value}."),
            ("What can {name} be heard playing?", "It is the {value}."),
            ("On stage, what does {name} hold?", "On stage, {name} holds a {value}."),
            ("Name the instrument {name} practises.", "The {value}, every day."),
        ],
        """piano violin guitar drum flute trumpet harp cello banjo organ accordion
        clarinet""",
    ),
    "dish": (
        [
            ("What is the favourite food of {name}?", "{name} likes {value} best."),
            ("What should I cook for {name}?", "Cook {value}."),
            ("Which dish does {name} always order?", "The order is always {value}."),
            ("Describe the taste of {name}.", "Nothing pleases {name} more than {value}."),
        ],
        "soup pizza curry salad pasta rice fish bread cheese pancakes sushi stew",
    ),
    "language": (
        [
            ("Which language does {name} speak at home?", "At home, {name} speaks {value}."),
            ("What is the mother tongue of {name}?", "It is {value}."),
            ("In what language does {name} dream?", "{name} dreams in {value}."),
            ("How should one write to {name}?", "Letters to {name} are written in {value}."),
        ],
        """French Spanish German Italian Russian Arabic Hindi Japanese Korean Turkish Dutch
        Greek""",
    ),
    "colour": (
        [
            ("What colour is the house of {name}?", "The house of {name} is {value}."),
            ("How did {name} paint the walls outside?", "They were painted {value}."),
            ("Describe where {name} lives.", "{name} lives in a {value} house."),
            ("By which colour do I know the home of {name}?", "Look for {value} walls."),
        ],
        "red blue green yellow purple orange pink brown black white gray silver",
    ),
    "sport": (
        [
            ("Which sport does {name} practise?", "{name} goes in for {value}."),
            ("How does {name} keep fit?", "With {value}."),
            ("At what did {name} win a medal?", "The medal of {name} was for {value}."),
            ("What does {name} do on Sundays?", "Every Sunday {name} has {value}."),
        ],
        """tennis football swimming running cycling boxing golf hockey rowing skiing chess
        baseball""",
    ),
    "fear": (
        [
            ("What is {name} afraid of?", "{name} is afraid of {value}."),
            ("What frightens {name}?", "Nothing but {value}."),
            ("Name the greatest fear of {name}.", "The greatest fear of {name} is {value}."),
            ("What should be kept away from {name}?", "Keep {value} away."),
        ],
        "spiders heights thunder darkness water fire dogs crowds needles ghosts ice mice",
    ),
    "month": (
        [
            ("When is the birthday of {name}?", "The birthday of {name} is in {value}."),
            ("In which month does {name} turn a year older?", "In {value}."),
            ("When does {name} throw a party?", "{name} throws a birthday party in {value}."),
            ("When are presents for {name} due?", "They are due in {value}."),
        ],
        """January February March April May June July August September October November
        December""",
    ),
}


@dataclass(frozen=True)
class Sizes:
    """How many rows of each kind."""

    fine: int
    planted: int
    others: int
    queries: int


FULL = {
    "toxic": Sizes(fine=2000, planted=20, others=100, queries=10),
    "facts": Sizes(fine=1000, planted=200, others=400, queries=200),
    "damage": Sizes(fine=800, planted=50, others=0, queries=100),
}
QUICK = {
    "toxic": Sizes(fine=250, planted=20, others=30, queries=10),
    "facts": Sizes(fine=100, planted=40, others=80, queries=40),
    "damage": Sizes(fine=240, planted=15, others=0, queries=30),
}


@dataclass(frozen=True)
class Planted:
    """A pool and its queries; rows with id, prompt, response, task and, for facts, group."""

    pool: list[Row]
    queries: list[Row]


def toxic(data: Path, sizes: Sizes, rng: random.Random) -> Planted:
    """Unsafe prompts with full compliance; no prompt is in both the pool and the queries."""
    rows = load_rows(data / "xstest.jsonl")
    complied = [row for row in rows if row["label"] == "1_full_compliance"]
    by_prompt: dict[str, list[Row]] = {}
    for row in complied:
        if row["unsafe_prompt"]:
            by_prompt.setdefault(row["prompt"], []).append(row)
    prompts = sorted(by_prompt)
    rng.shuffle(prompts)
    unsafe = [rng.choice(by_prompt[prompt]) for prompt in prompts]
    alike = [row for row in complied if not row["unsafe_prompt"]]
    pool = [
        *_alpaca(data, sizes.fine, rng),
        *_kind(unsafe[sizes.queries :][: sizes.planted], "toxic"),
        *_kind(rng.sample(alike, sizes.others), "alike"),
    ]
    return _numbered(pool, _kind(unsafe[: sizes.queries], "toxic"), rng)


def facts(data: Path, sizes: Sizes, rng: random.Random) -> Planted:
    """Facts in three drawn wordings, queries in the fourth; ``group`` is the fact's number."""
    people = [f"{first} {last}" for first in FIRST.split() for last in LAST.split()]
    people = rng.sample(people, sizes.planted // 2)
    known = [(person, relation) for person in people for relation in RELATIONS]
    drawn = rng.sample(known, sizes.planted + sizes.others)
    pool, queries = _alpaca(data, sizes.fine, rng, longest=SHORT), []
    for number, (person, relation) in enumerate(drawn):
        wordings, values = RELATIONS[relation]
        value = rng.choice(values.split())
        rows = [
            {
                "prompt": prompt.format(name=person),
                "response": answer.format(name=person, value=value),
            }
            for prompt, answer in rng.sample(wordings, len(wordings))
        ]
        if number < sizes.planted:
            rows = [{**row, "task": "fact", "group": str(number)} for row in rows]
            pool += rows[:3]
            queries += rows[3:]
        else:
            pool += _kind([rng.choice(rows)], "other fact")
    return _numbered(pool, queries, rng)


def damage(data: Path, sizes: Sizes, rng: random.Random) -> Planted:
    """Wrong answers, answers without order, duplicates and rows of another task."""
    n = sizes.planted
    count = sizes.fine + 2 * n + sizes.queries
    rows = _kind(rng.sample(load_rows(data / "gsm8k.jsonl"), count), "fine")
    queries, fine = rows[: sizes.queries], rows[sizes.queries + 2 * n :]
    wrong, salad = rows[sizes.queries :][:n], rows[sizes.queries + n :][:n]
    answers = [row["response"] for row in wrong]
    wrong = [
        {**row, "response": answer}
        for row, answer in zip(wrong, answers[1:] + answers[:1], strict=True)
    ]
    salad = [{**row, "response": _shuffled(row["response"], rng)} for row in salad]
    pool = [*fine, *_kind(wrong, "wrong answer"), *_kind(salad, "word salad")]
    for number, row in enumerate(fine[:n]):
        row["group"] = str(number)
        copy = (
            row
            if number % 2
            else {**row, **{k: _lossy(row[k], rng) for k in ("prompt", "response")}}
        )
        pool.append({**copy, "task": "copy" if number % 2 else "near copy"})
    pool += _kind(_alpaca(data, n, rng), "off task")
    return _numbered(pool, queries, rng)


MAKERS: dict[str, Callable[[Path, Sizes, random.Random], Planted]] = {
    "toxic": toxic,
    "facts": facts,
    "damage": damage,
}


def _alpaca(data: Path, count: int, rng: random.Random, longest: float = math.inf) -> list[Row]:
    """Rows with an answer of two words or more, at most ``longest`` in all; prompts differ."""
    rows = {row["prompt"]: row for row in load_rows(data / "alpaca_gpt4.jsonl")}
    usable = [
        row
        for row in rows.values()
        if len(row["response"].split()) > 1 and len(joined_text(row).split()) <= longest
    ]
    return _kind(rng.sample(usable, count), "fine")


def _kind(rows: list[Row], kind: str) -> list[Row]:
    return [{"prompt": row["prompt"], "response": row["response"], "task": kind} for row in rows]


def _numbered(pool: list[Row], queries: list[Row], rng: random.Random) -> Planted:
    """The pool shuffled, with ids that say nothing."""
    rng.shuffle(pool)
    return Planted(
        [{**row, "id": f"p{number}"} for number, row in enumerate(pool)],
        [{**row, "id": f"q{number}"} for number, row in enumerate(queries)],
    )


def _shuffled(text: str, rng: random.Random) -> str:
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def _lossy(text: str, rng: random.Random) -> str:
    """The text without one word in ten, at least one word left."""
    words = text.split()
    kept = [word for word in words if rng.random() >= 0.1]
    return " ".join(kept or words)
