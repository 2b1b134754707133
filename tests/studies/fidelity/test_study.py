"""Splits, tables, confidence and cascade of the study."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.errors import DataError, RankingError
from influcoder_lightning.influence.cascade import choose_for_exact, merge_exact
from influcoder_lightning.studies.fidelity.cascades import by_confidence, cascade
from influcoder_lightning.studies.fidelity.rank_correlation import (
    aggregated_rho,
    per_query_rho,
    top_k_precision,
)
from influcoder_lightning.studies.fidelity.splits import PARTS, draw_splits
from influcoder_lightning.studies.fidelity.table import merge_parts


def rows(n, name):
    return [{"prompt": f"{name} {i}", "response": "x"} for i in range(n)]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(3, 9), st.integers(3, 9), st.integers(3, 9), st.integers(0, 12), st.integers(0, 9)
)
def test_splits_are_disjoint_and_of_the_size_asked(fit, select, measured, shared, seed):
    sizes = dict(zip(PARTS, (fit, select, measured), strict=True))
    needed = sum(sizes.values())
    query = rows(needed, "q") * 2  # repeated rows count once
    pool = rows(needed, "p") + query[:shared]
    splits = draw_splits(pool, query, sizes, sizes, seed)
    drawn = [r["prompt"] for side in (splits.pool, splits.query) for p in PARTS for r in side[p]]
    assert len(drawn) == len(set(drawn)) == 2 * needed
    assert {p: len(splits.pool[p]) for p in PARTS} == sizes
    with pytest.raises(DataError, match="different rows"):
        draw_splits(pool, query[: needed - 1], sizes, sizes, seed)


def test_what_is_measured_on_does_not_depend_on_how_much_is_learned_from():
    pool, query = rows(60, "p"), rows(60, "q")
    few, many = (
        draw_splits(pool, query, {"fit": n, "select": 5, "eval": 9}, dict.fromkeys(PARTS, 5), 3)
        for n in (5, 40)
    )
    assert few.pool["eval"] == many.pool["eval"]
    assert few.pool["fit"] == many.pool["fit"][:5]


def test_rhos_correlate_ranks_and_constant_rows_count_as_zero():
    rng = np.random.default_rng(0)
    scores, exact = rng.normal(size=(2, 4, 30))

    def rho(a, b):  # of distinct values
        return np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1]

    expected = np.mean([rho(a, b) for a, b in zip(scores, exact, strict=True)])
    assert per_query_rho(scores, exact) == pytest.approx(expected)
    expected = rho(scores.mean(0), exact.mean(0))
    assert aggregated_rho(scores, exact) == pytest.approx(expected)
    flat = scores.copy()
    flat[0] = 1.0
    rest = [rho(a, b) for a, b in zip(flat[1:], exact[1:], strict=True)]
    assert per_query_rho(flat, exact) == pytest.approx(sum(rest) / 4)
    assert top_k_precision(exact, exact, 5) == 1.0


def test_a_cascade_ends_at_the_truth_and_starts_at_the_tower():
    rng = np.random.default_rng(1)
    exact = rng.normal(size=(6, 80))
    noise = rng.uniform(0, 2, 80)
    scores, sure = exact + noise * rng.normal(size=exact.shape), 1 / (1 + noise)
    lines = cascade(scores, sure, exact, [0, 0.3, 1], seed=0)
    assert lines[0]["cascade"] == lines[0]["random"]
    assert lines[0]["cascade"]["per_query"] == pytest.approx(per_query_rho(scores, exact))
    assert lines[-1]["cascade"] == {"per_query": 1.0, "aggregated": 1.0, "top_k_precision": 1.0}
    halves = by_confidence(scores, sure, exact)
    assert halves["more"]["per_query"] > halves["less"]["per_query"]


def test_the_choice_takes_the_top_and_the_uncertain():
    scores = np.array([5.0, 4.0, 1.0, 1.0, 1.0, 0.9])
    sure = np.array([1.0, 1.0, 1.0, 0.1, 1.0, 0.0])
    assert set(choose_for_exact(scores, sure, 4).tolist()) == {0, 1, 3, 5}
    assert choose_for_exact(scores, sure, 0).size == 0
    assert sorted(choose_for_exact(scores, sure, 6).tolist()) == list(range(6))
    with pytest.raises(RankingError, match="m=7"):
        choose_for_exact(scores, sure, 7)


def test_exact_scores_replace_those_of_the_tower():
    ranking = Ranking(["a", "b", "c"], [1.0, 2.0, 3.0], confidence=[0.1, 0.2, 0.3])
    merged = merge_exact(ranking, Ranking(["c", "a"], [-1.0, 9.0]))
    assert merged.scores.tolist() == [9.0, 2.0, -1.0]
    assert merged.confidence.tolist() == [1.0, 0.2, 1.0]
    with pytest.raises(RankingError, match="not ranked"):
        merge_exact(ranking, Ranking(["d"], [0.0]))


def test_parts_are_averaged_over_seeds():
    def part(seed, state, rho):
        row = {"name": "m", "kind": "text", "per_query": rho, "aggregated": rho,
               "ms_per_sample": 1.0, "bytes_per_sample": 2, "n_fit": 3}  # fmt: skip
        quality = {"per_query": rho, "aggregated": rho}
        choice = quality | {"top_k_precision": 1.0}
        return {
            "seed": seed, "state": state, "rows": [row],
            "curve": [{"name": "m", "n_pool": 5, **quality}],
            "cascade": [{"m": 0, "share": 0.0, "k": 1, "cascade": choice, "random": choice}],
            "confidence": {half: quality | {"stated": 0.5} for half in ("more", "less")},
            "exact": [[1.0, 2.0, 3.0]],
        }  # fmt: skip

    merged = merge_parts([part(0, "warm", 0.4), part(1, "warm", 0.6), part(0, "fresh", 0.1)])
    warm, fresh = merged["rows"]
    assert (warm["adapter"], warm["per_query"], warm["seeds"]) == ("warm", 0.5, 2)
    assert warm["spread"]["per_query"] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert fresh["spread"]["per_query"] is None
    assert merged["states_agree"] == {"per_query": 1.0, "aggregated": 1.0}
