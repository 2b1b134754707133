"""LDS against scipy in a slow loop, and against worlds in which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.errors import ConfigError, RankingError
from influcoder_lightning.studies.retraining.lds import (
    agreement_interval,
    lds_table,
    mean_ceiling,
    row_correlations,
    seed_agreement,
)
from influcoder_lightning.studies.retraining.score_matrix import load_matrix
from influcoder_lightning.studies.retraining.subsets import draw_subset, membership
from influcoder_lightning.studies.retraining.truth import Truth

N, M, S = 24, 5, 30


def world(noise: float = 0.0, seeds: int = 2) -> tuple[Truth, np.ndarray]:
    """A world in which losses are minus sums of known effects, plus noise."""
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(M, N))
    subsets = [draw_subset(N, 0.5, i, 7) for i in range(S)]
    losses = np.empty((S, seeds, M))
    for i, subset in enumerate(subsets):
        for r in range(seeds):
            for q in range(M):
                total = sum(effects[q, j] for j in subset.tolist())
                losses[i, r, q] = 5 - total + noise * rng.normal()
    ids = np.array([f"s{i}" for i in range(N)], dtype=object)
    return Truth(ids, np.arange(M), membership(subsets, N), losses), effects


def test_true_effects_predict_perfectly_and_their_opposite_as_badly():
    truth, effects = world()
    table = lds_table(truth, {"true": effects, "opposite": -effects}, draws=50)
    assert table["true"].mean == pytest.approx(1.0)
    assert table["opposite"].mean == pytest.approx(-1.0)
    assert table["true"].aggregated == pytest.approx(1.0)
    assert table["true"].ci95 == pytest.approx((1.0, 1.0))
    mean, low, high = table["opposite"].behind["true"]
    assert [mean, low, high] == pytest.approx([2.0] * 3)


def test_lds_equals_scipy_in_a_loop():
    truth, effects = world(noise=3.0)
    scores = effects + np.random.default_rng(1).normal(size=effects.shape)
    got = lds_table(truth, {"x": scores}, draws=10)["x"].per_query
    for q in range(M):
        predicted = [sum(scores[q, j] for j in range(N) if truth.members[i, j]) for i in range(S)]
        measured = [-(truth.losses[i, 0, q] + truth.losses[i, 1, q]) / 2 for i in range(S)]
        expected = scipy.stats.spearmanr(predicted, measured).statistic
        assert got[q] == pytest.approx(expected)


def test_several_valuation_runs_are_judged_one_by_one():
    truth, effects = world(noise=3.0)
    rng = np.random.default_rng(4)
    runs = effects + rng.normal(size=(3, *effects.shape))
    table = lds_table(truth, {"all": runs, "a": runs[0], "b": runs[1], "c": runs[2]}, draws=20)
    each = [table[name] for name in "abc"]
    assert table["all"].mean == pytest.approx(np.mean([score.mean for score in each]))
    assert table["all"].aggregated == pytest.approx(np.mean([s.aggregated for s in each]))


def test_seed_agreement_equals_scipy_and_bounds_noisy_worlds():
    truth, effects = world(noise=3.0, seeds=3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean(
        [
            [
                scipy.stats.spearmanr(truth.losses[:, a, q], truth.losses[:, b, q]).statistic
                for a, b in pairs
            ]
            for q in range(M)
        ]
    )
    agreement = float(seed_agreement(truth).mean())
    assert agreement == pytest.approx(expected)
    low, high = agreement_interval(truth, draws=100)
    assert low < agreement < high
    perfect = lds_table(truth, {"true": effects}, draws=10)["true"].mean
    assert perfect > agreement  # the mean over seeds holds less chance than each of them
    assert perfect == pytest.approx(mean_ceiling(agreement, 3), abs=0.08)


def test_intervals_hold_the_value_and_chance_is_near_zero():
    truth, effects = world(noise=3.0)
    rng = np.random.default_rng(2)
    score = lds_table(truth, {"x": effects, "chance": rng.normal(size=effects.shape)}, draws=300)
    assert score["x"].ci95[0] < score["x"].mean < score["x"].ci95[1]
    assert abs(score["chance"].mean) < 0.35
    assert score["chance"].behind["x"][1] > 0


@given(st.integers(0, 2**31), st.integers(3, 12), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_row_correlations_are_spearmans_with_ties(seed, columns, rows):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, (2, rows, columns)).astype(float)
    got = row_correlations(a, b)
    for x, y, rho in zip(a, b, got, strict=True):
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert rho == 0
        else:
            assert rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic)


def test_a_subset_is_a_function_of_seed_and_number_alone():
    first = draw_subset(100, 0.5, 3, 0)
    assert first.tolist() == draw_subset(100, 0.5, 3, 0).tolist() == sorted(set(first.tolist()))
    assert len(first) == 50
    assert first.tolist() != draw_subset(100, 0.5, 4, 0).tolist()
    for share in (0.0, 1.0, 0.001):
        with pytest.raises(ConfigError, match="leaves"):
            draw_subset(100, share, 0, 0)


def test_rankings_are_brought_into_the_order_of_the_pool():
    truth, _ = world()
    scores = np.arange(M * N, dtype=np.float32).reshape(M, N)
    shuffled = np.random.default_rng(3).permutation(N)
    ranking = Ranking(
        truth.sample_ids[shuffled],
        scores.mean(axis=0)[shuffled],
        per_query=scores[::-1][:, shuffled],
        query_ids=truth.query_ids[::-1],
    )
    assert np.array_equal(truth.scores_of(ranking), scores)
    plain = Ranking(truth.sample_ids, scores[0])
    assert np.array_equal(truth.scores_of(plain), np.tile(scores[0], (M, 1)))
    holes = Ranking(truth.sample_ids, np.where(np.arange(N) == 3, np.nan, 1.0))
    with pytest.raises(RankingError, match="without a score"):
        truth.scores_of(holes)


def test_score_matrices_from_elsewhere(tmp_path):
    truth, effects = world()
    np.save(tmp_path / "a.npy", effects)
    assert np.array_equal(load_matrix(tmp_path / "a.npy", truth), effects)
    np.save(tmp_path / "b.npy", effects[0])
    assert np.array_equal(load_matrix(tmp_path / "b.npy", truth)[3], effects[0])
    lines = [f"{name},{i}" for i, name in enumerate(truth.sample_ids)]
    (tmp_path / "c.csv").write_text("\n".join(["sample_id,score", *lines[::-1]]))
    assert load_matrix(tmp_path / "c.csv", truth)[2].tolist() == list(range(N))
    np.save(tmp_path / "d.npy", effects[:, 1:])
    np.save(tmp_path / "e.npy", np.full((M, N), np.nan))
    np.save(tmp_path / "f.npy", np.array([{}], dtype=object), allow_pickle=True)
    with (tmp_path / "h.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(file, header)
    for name, message in (
        ("d.npy", "the study has 5 queries and 24 samples"),
        ("e.npy", "not finite"),
        ("f.npy", "cannot be read"),
        ("g.npy", "no such file"),
        ("h.npy", "cannot be read"),
    ):
        with pytest.raises(RankingError, match=message):
            load_matrix(tmp_path / name, truth)
