"""A built-in synthetic instruction set: small text skills, with planted truth.

Everything is drawn from one seed, so that what a ranking should find is known: which responses are
corrupted, which rows are duplicates, and which skill a query is about.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from influcoder_lightning.data.rows import Row
from influcoder_lightning.errors import ConfigError

_NOUNS = (
    "apple bird boat book bread cake cat chair cloud coat corn dog door duck farm fish flag frog "
    "gate goat hat hill horse house jam key king lamp leaf lion milk moon mouse nest owl pear pig "
    "queen rain ring river road rose salt sand seed ship shoe snow sock song star sun table tree "
    "wall well wind wolf yard"
)
_WORDS = _NOUNS.split()

# The dictionary of the invented language: learnt from examples only, so that rows of this skill
# help each other and no other skill can stand in for them.
_ZUMI = (
    "zumo kel ravi ponu sil dako mefi tul boru wex gani lopa fim jeru tosk vani hul pemo kiru sab"
)
_LEXICON = dict(zip(_WORDS, _ZUMI.split(), strict=False))
_TRIES = 1000  # in a row that bring no new prompt: there is none left to speak of
_NUMBERS = {2: "twice", 3: "three times", 4: "four times"}


def _pick(rng: np.random.Generator, count: int, words: list[str] = _WORDS) -> list[str]:
    return [words[i] for i in rng.choice(len(words), size=count, replace=False)]


def _translate(rng: np.random.Generator) -> tuple[str, str]:
    words = _pick(rng, 3, list(_LEXICON))
    return f"Say in Zumi: {' '.join(words)}", " ".join(_LEXICON[word] for word in words)


def _reverse(rng: np.random.Generator) -> tuple[str, str]:
    words = _pick(rng, int(rng.integers(3, 6)))
    return f"Reverse the order of: {' '.join(words)}", " ".join(reversed(words))


def _sort(rng: np.random.Generator) -> tuple[str, str]:
    words = _pick(rng, int(rng.integers(3, 5)))
    return f"Sort these words: {' '.join(words)}", ", ".join(sorted(words))


def _repeat(rng: np.random.Generator) -> tuple[str, str]:
    words = _pick(rng, 2)
    count = int(rng.choice(list(_NUMBERS)))
    phrase = " ".join(words)
    return f"Write {phrase} {_NUMBERS[count]}.", " - ".join([phrase] * count)


def _initials(rng: np.random.Generator) -> tuple[str, str]:
    words = _pick(rng, int(rng.integers(4, 7)))
    return (
        f"Give the first letters of: {' '.join(words)}",
        ".".join(word[0].upper() for word in words) + ".",
    )


def _add(rng: np.random.Generator) -> tuple[str, str]:
    left, right = (int(number) for number in rng.integers(10, 100, size=2))
    return f"What is {left} plus {right}?", f"{left} + {right} = {left + right}"


SKILLS: dict[str, Callable[[np.random.Generator], tuple[str, str]]] = {
    "translate": _translate,
    "reverse": _reverse,
    "sort": _sort,
    "repeat": _repeat,
    "initials": _initials,
    "add": _add,
}
"""Each skill draws one (prompt, response) pair from a generator."""


@dataclass(frozen=True)
class SkillData:
    """Rows for a whole run, without overlap, and what is true about them.

    Pool rows have the extra fields ``corrupted`` (the response belongs to another row) and
    ``duplicate_of`` (the id of the pool row with the same prompt and response, else None).
    """

    pretrain: list[Row]
    pool: list[Row]
    query: list[Row]
    evaluation: list[Row]
    query_skill: str
    corrupted_ids: list[str] = field(default_factory=list)
    duplicate_ids: list[str] = field(default_factory=list)


def make_skill_data(
    seed: int = 0,
    *,
    query_skill: str = "translate",
    n_pretrain: int = 3000,
    n_pool: int = 600,
    n_query: int = 30,
    n_evaluation: int = 60,
    corrupted_share: float = 0.1,
    duplicate_share: float = 0.05,
    pretrain_query_share: float = 0.01,
) -> SkillData:
    """Draw the built-in data.

    Args:
        seed: Same seed and sizes, same rows.
        query_skill: The skill of the query and evaluation rows, a key of :data:`SKILLS`.
        n_pretrain: Rows to pretrain a model on. Only ``pretrain_query_share`` of them show the
            query skill, so that fine-tuning can improve it.
        n_pool: Rows to choose from, in equal parts of every skill.
        n_query: Rows that say what matters.
        n_evaluation: Rows to measure on.
        corrupted_share: Share of every skill's pool rows whose response is another row's.
        duplicate_share: Share of every skill's pool rows that repeat another one.
        pretrain_query_share: Share of the query skill in ``pretrain``.

    Raises:
        ConfigError: For an unknown skill, or shares and sizes that leave nothing to draw.
    """
    if query_skill not in SKILLS:
        raise ConfigError(f"unknown skill {query_skill!r}. Choose one of: {', '.join(SKILLS)}.")
    if corrupted_share < 0 or duplicate_share < 0 or corrupted_share + 2 * duplicate_share > 1:
        raise ConfigError("corrupted_share + 2 * duplicate_share must lie between 0 and 1.")
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    query = _named(_draw(rng, query_skill, n_query, seen), "query")
    evaluation = _named(_draw(rng, query_skill, n_evaluation, seen), "eval")
    pool = _pool(rng, n_pool, corrupted_share, duplicate_share, seen)
    n_own = round(pretrain_query_share * n_pretrain)
    others = [skill for skill in SKILLS if skill != query_skill]
    pretrain = _draw(rng, query_skill, n_own, seen)
    for skill, count in zip(others, _parts(n_pretrain - n_own, len(others)), strict=True):
        pretrain += _draw(rng, skill, count, seen)
    return SkillData(
        pretrain=_named(_shuffled(rng, pretrain), "pretrain"),
        pool=pool,
        query=query,
        evaluation=evaluation,
        query_skill=query_skill,
        corrupted_ids=[row["id"] for row in pool if row["corrupted"]],
        duplicate_ids=[row["id"] for row in pool if row["duplicate_of"] is not None],
    )


def _pool(
    rng: np.random.Generator,
    n_pool: int,
    corrupted_share: float,
    duplicate_share: float,
    seen: set[str],
) -> list[Row]:
    rows: list[Row] = []
    for skill, count in zip(SKILLS, _parts(n_pool, len(SKILLS)), strict=True):
        n_copies, n_corrupted = round(duplicate_share * count), round(corrupted_share * count)
        own = _draw(rng, skill, count - n_copies, seen)
        for position, row in enumerate(own):
            row["corrupted"] = position < n_corrupted
        # Only sound rows are repeated, so that the two kinds of planted rows stay apart.
        copies = [{**row, "copy_of": row} for row in own[n_corrupted : n_corrupted + n_copies]]
        rows += own + copies
    truth = [row["response"] for row in rows]
    for row in rows:
        sound = row["response"]
        while row["corrupted"] and row["response"] == sound:
            row["response"] = truth[int(rng.integers(len(truth)))]
    rows = _named(_shuffled(rng, rows), "pool")
    # A copy holds its original itself until ids exist; ids follow the shuffled order.
    for row in rows:
        original = row.pop("copy_of", None)
        row["duplicate_of"] = None if original is None else original["id"]
    return rows


def _draw(rng: np.random.Generator, skill: str, count: int, seen: set[str]) -> list[Row]:
    """``count`` rows of a skill whose prompts were not drawn before."""
    rows: list[Row] = []
    n_tries = 0
    while len(rows) < count:
        prompt, response = SKILLS[skill](rng)
        n_tries += 1
        if prompt not in seen:
            seen.add(prompt)
            rows.append({"prompt": prompt, "response": response, "task": skill})
            n_tries = 0
        elif n_tries == _TRIES:
            raise ConfigError(f"{skill!r} has too few different prompts for {count} rows.")
    return rows


def _named(rows: list[Row], name: str) -> list[Row]:
    for index, row in enumerate(rows):
        row["id"] = f"{name}-{index:04d}"
    return rows


def _shuffled(rng: np.random.Generator, rows: list[Row]) -> list[Row]:
    return [rows[i] for i in rng.permutation(len(rows))]


def _parts(total: int, count: int) -> list[int]:
    """``total`` in ``count`` parts that differ by one at most."""
    return [total // count + (i < total % count) for i in range(count)]
