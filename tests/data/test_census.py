"""Near copies and the other counts of a pool, compared with every pair of rows."""

from __future__ import annotations

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning.data.census import census
from influcoder_lightning.data.near_copies import ALIKE, near_copies


def shared(a: str, b: str) -> float:
    """The Jaccard index of words and pairs of words, as one would write it down."""

    def features(text):
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        return set(words) | {(words[i], words[i + 1]) for i in range(len(words) - 1)}

    one, other = features(a), features(b)
    return len(one & other) / len(one | other) if one | other else 1.0


def by_all_pairs(texts):
    return [
        later
        for later in range(len(texts))
        if any(shared(texts[later], texts[earlier]) >= ALIKE for earlier in range(later))
    ]


def test_rows_with_a_word_changed_are_found_among_many_others():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(draw.choice(words) for _ in range(60)) for _ in range(120)]
    for place in range(0, 100, 10):
        changed = texts[place].split()
        changed[draw.randrange(60)] = "other"
        texts.append(" ".join(changed))
    assert near_copies(texts) == by_all_pairs(texts) == list(range(120, 130))


@given(st.lists(st.text("ab .,A", max_size=12), max_size=12))
def test_nothing_is_a_near_copy_that_shares_less(texts):
    assert set(near_copies(texts)) <= set(by_all_pairs(texts))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.data())
def test_a_true_copy_is_always_found(texts, data):
    texts = [*texts, data.draw(st.sampled_from(texts))]
    assert len(texts) - 1 in near_copies(texts)


def test_text_without_spaces_is_compared_by_its_characters():
    text = "今日は天気がいいから散歩しましょう。明日も晴れるといいですね。"
    assert near_copies([text, text.replace("明日", "昨日"), "全然違う文章です。"]) == [1]


def test_the_counts_of_a_pool_are_those_of_a_loop_over_all_pairs():
    long = " ".join(f"word{i}" for i in range(30))
    rows = [
        {"prompt": "q", "response": long, "id": "a"},
        {"prompt": "q", "response": long, "id": "b"},  # a copy
        {"prompt": "q", "response": long + " end", "id": "a"},  # a near one, of the same id
        {"prompt": "something else", "response": "  \n"},
        {"prompt": "q", "response": ""},
    ]
    found = census(rows)
    assert (found.rows, found.empty, found.copies, found.near, found.shared_ids) == (5, 2, 1, 1, 1)
