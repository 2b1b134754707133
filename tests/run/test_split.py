"""Scores of conversations are means over their turns, weighted by the tokens that have a loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.run.split import Split

TURN = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.sampled_from([-1.0, 0.5, 2.0, float("nan")]),
    st.integers(1, 9),
)  # fmt: skip


def split_of(turns):
    rows = [{"prompt": "", "response": str(i)} for i in range(len(turns))]
    ids = [f"{name}/{i}" for i, (name, _, _) in enumerate(turns)]
    weights = [weight for _, _, weight in turns]
    names = [name for name, _, _ in turns]
    wholes = [{"prompt": "", "response": f"all of {name}"} for name in names]
    return Split(rows, ids, [], range(len(turns)), weights, None, names, wholes)


@given(st.lists(TURN, min_size=1, max_size=8), st.randoms())
def test_a_conversation_has_the_weighted_mean_of_its_scored_turns(turns, random):
    split = split_of(turns)
    order = list(range(len(turns)))
    random.shuffle(order)  # a ranking need not be in the order of the pool
    scores = np.array([turns[i][1] for i in order])
    ranking = Ranking([split.ids[i] for i in order], scores, scores[None].copy(), ["q"])
    found = split.of_conversations(ranking)
    for name, score, of_query in zip(
        found.sample_ids, found.scores, found.per_query[0], strict=True
    ):
        known = [(s, w) for n, s, w in turns if n == name and not np.isnan(s)]
        if not known:
            assert np.isnan(score)
            continue
        expected = sum(s * w for s, w in known) / sum(w for _, w in known)
        assert score == of_query == pytest.approx(expected)
    assert set(found.sample_ids) == {name for name, _, _ in turns}


def test_a_whole_conversation_is_shown_whole_and_trains_on_all_its_turns():
    split = split_of([("a", 1.0, 1), ("b", 1.0, 1), ("a", 1.0, 1)])
    whole = split.whole()
    assert [row["response"] for row in whole.rows] == ["all of a", "all of b", "all of a"]
    assert whole.ids == ["a", "b", "a"]
    assert whole.subset(["a"]).indices == [0, 2]
    assert whole.whole() is whole
