"""Spread: disagreement of queries, or of methods, against loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from influcoder_lightning import Ranking
from influcoder_lightning.report.findings.ambiguous import spread_over_methods, spread_over_queries


def ranking(per_query, ids=None):
    per_query = np.asarray(per_query, dtype=np.float32)
    ids = list(range(per_query.shape[1])) if ids is None else ids
    return Ranking(ids, np.nanmean(per_query, axis=0), per_query=per_query)


@given(
    m=st.integers(2, 9),
    n=st.integers(2, 30),
    block=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 2**16),
)
def test_the_spread_is_that_of_the_places(m, n, block, seed):
    scores = np.random.default_rng(seed).integers(0, 8, size=(m, n))  # with ties
    found = spread_over_queries(ranking(scores), block=block)
    places = np.array([(rankdata(-row) - 1) / (n - 1) for row in scores])
    np.testing.assert_allclose(found.values, places.std(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.best, 100 * places.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.worst, 100 * places.max(axis=0), rtol=1e-6)


def test_a_sample_that_half_of_the_queries_want_is_the_most_ambiguous():
    scores = np.random.default_rng(0).normal(size=(20, 50)) * 0.01
    scores[:, 7] = 0  # of no interest to anybody
    scores[:10, 3], scores[10:, 3] = 5, -5
    scores[:, 9] = 9  # everybody's favourite
    found = spread_over_queries(ranking(scores))
    assert found.most(1).tolist() == [3]
    assert found.values[3] == pytest.approx(0.49, abs=0.01)
    assert found.values[9] == 0
    assert found.values[7] < 0.2


def test_the_scale_of_a_querys_scores_does_not_matter():
    scores = np.random.default_rng(1).normal(size=(6, 40))
    scaled = scores * np.array([1, 1, 1000, 1, 0.001, 1])[:, None] + 7
    first, second = (spread_over_queries(ranking(s)).values for s in (scores, scaled))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_many_queries_and_samples_are_cut_to_a_seeded_part():
    scores = np.random.default_rng(2).normal(size=(50, 100))
    found = spread_over_queries(ranking(scores), work=1000)
    assert (found.used, found.total) == (10, 50)
    assert "10 of the 50 queries" in found.definition()
    again = spread_over_queries(ranking(scores), work=1000)
    np.testing.assert_array_equal(found.values, again.values)
    assert spread_over_queries(ranking(scores), work=1).used == 2


def test_what_has_no_two_queries_has_no_spread():
    assert spread_over_queries(Ranking([0, 1], [1.0, 2.0])) is None
    assert spread_over_queries(ranking([[1.0, 2.0]])) is None


def test_a_sample_that_a_query_could_not_score_is_unknown():
    scores = np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32)
    scores[2, 1] = np.nan
    found = spread_over_queries(ranking(scores))
    assert np.flatnonzero(np.isnan(found.values)).tolist() == [1]
    assert 1 not in found.most(6).tolist()


def test_methods_disagree_by_the_distance_of_their_places():
    main = Ranking(["a", "b", "c", "d"], [4.0, 3.0, 2.0, 1.0])
    turned = Ranking(["d", "c", "b", "a"], [4.0, 3.0, 2.0, 1.0])
    part = Ranking(["a", "b"], [1.0, 2.0])
    found = spread_over_methods(main, {"main": main, "turned": turned, "part": part})
    np.testing.assert_allclose(found.values, [1, 2 / 3, 1 / 3, 1], atol=1e-6)
    np.testing.assert_allclose(found.best, [0, 0, 100 / 3, 0], atol=1e-4)
    assert "3 methods" in found.definition()
    assert spread_over_methods(main, {"main": main}) is None
