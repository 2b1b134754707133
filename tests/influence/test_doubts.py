"""What is said of a ranking that does not know: ties, unsure scores, a cut through equals."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.influence.doubts import cut_through, doubts, ties

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, float("nan")]), min_size=1, max_size=9)


@given(SCORES)
def test_ties_are_those_of_a_count(scores):
    known = [score for score in scores if not np.isnan(score)]
    shared = sum(n for n in Counter(known).values() if n > 1)
    said = ties(scores)
    if not shared:
        assert said is None
    elif len(set(known)) == 1:
        assert said == f"All {len(known)} samples have the same score: their order says nothing."
    else:
        assert said is not None
        assert said.startswith(f"{shared} of {len(known)} samples share their score")
        best = Counter(known)[max(known)]
        assert (f"{best} have the best one" in said) == (best > 1)


@given(SCORES, st.data())
def test_a_choice_that_ends_among_equals_says_how_many_of_them_it_took(scores, data):
    ranking = Ranking(list(range(len(scores))), scores)
    if not ranking.n_scored:
        return
    k = data.draw(st.integers(1, ranking.n_scored))
    chosen = [scores[name] for name in ranking.top_k(k)]
    left = [s for s in scores if not np.isnan(s)]
    for score in chosen:
        left.remove(score)
    said = cut_through(ranking, k)
    if chosen[-1] not in left:
        assert said is None
    else:
        n = chosen.count(chosen[-1])
        assert f"among {n + left.count(chosen[-1])} samples of the same score, {n} of" in said


def test_scores_that_the_tower_is_not_sure_of_are_said_to_be_guesses():
    unsure = Ranking(["a", "b"], [1.0, 2.0], confidence=np.array([0.1, 0.2]))
    assert "of 0% of them" in doubts(unsure)[0]
    assert doubts(Ranking(["a", "b"], [1.0, 2.0], confidence=np.array([0.9, 0.8]))) == []
