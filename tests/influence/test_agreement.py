"""Statistics of two rankings against slow definitions that share no code with them."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.agreement import agreement, pair
from influcoder_lightning.influence.score_files import load_scores

tied = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.6, 0.75, 0.9, 1.0, 3.0])
shares = st.sampled_from([i / 10 for i in range(11)])


@st.composite
def two(draw, first=tied, second=tied):
    n = draw(st.integers(3, 14))
    return [draw(st.lists(kind, min_size=n, max_size=n)) for kind in (first, second)]


def compare(a, b, ks=(), **options):
    return agreement(pair(Ranking(range(len(a)), a), Ranking(range(len(b)), b), **options), ks)


def slow_kendall(a, b):
    """tau-b: concordant less discordant pairs over the geometric mean of untied pairs."""
    balance = untied_a = untied_b = 0
    for i, j in combinations(range(len(a)), 2):
        x, y = (a[i] > a[j]) - (a[i] < a[j]), (b[i] > b[j]) - (b[i] < b[j])
        balance, untied_a, untied_b = balance + x * y, untied_a + abs(x), untied_b + abs(y)
    return balance / math.sqrt(untied_a * untied_b) if untied_a and untied_b else None


def slow_spearman(a, b):
    """Pearson's correlation of mean ranks."""

    def ranks(values):
        return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]

    x, y = ranks(a), ranks(b)
    mean = (len(a) + 1) / 2
    xy = sum((p - mean) * (q - mean) for p, q in zip(x, y, strict=True))
    xx, yy = (sum((p - mean) ** 2 for p in side) for side in (x, y))
    return xy / math.sqrt(xx * yy) if xx and yy else None


def slow_order(scores):
    """Best first; the first of equals first."""
    return [i for _, i in sorted((-score, i) for i, score in enumerate(scores))]


@settings(deadline=None)
@given(two())
def test_correlations(scores):
    a, b = scores
    found = compare(a, b)
    for name, slow in (("spearman", slow_spearman), ("kendall", slow_kendall)):
        expected = slow(a, b)
        if expected is None:
            assert found[name] is None
        else:
            assert found[name] == pytest.approx(expected, abs=1e-9)
    assert compare(b, a)["kendall"] == pytest.approx(found["kendall"])
    assert found["distinct_scores"] == {"a": len(set(a)), "b": len(set(b))}


@settings(deadline=None)
@given(two(), st.data())
def test_overlap_of_the_ends(scores, data):
    a, b = scores
    n = len(a)
    ks = data.draw(st.lists(st.integers(1, n), min_size=1, max_size=4))
    found = compare(a, b, ks)
    assert list(found["overlap"]) == [str(k) for k in sorted(set(ks))]
    for k in ks:
        top = sum(i in slow_order(b)[:k] for i in slow_order(a)[:k]) / k
        bottom = sum(i in slow_order(b)[n - k :] for i in slow_order(a)[n - k :]) / k
        assert found["overlap"][str(k)] == top
        assert found["bottom_overlap"][str(k)] == bottom


@settings(deadline=None)
@given(two(first=shares), st.booleans())
def test_bins(scores, swap):
    """By whichever side lies in [0, 1]; the first, if both do."""
    a, b = scores
    found = compare(b, a) if swap else compare(a, b)
    other_fits = all(0 <= value <= 1 for value in b)
    assert found["binned_by"] == ("b" if swap and not other_fits else "a")
    if swap and other_fits:
        a, b = b, a
    order = slow_order(b)
    expected = {}
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        members = [i for i, value in enumerate(a) if value > low]
        expected[f"> {low}"] = (members, order[: len(members)])
    members = [i for i, value in enumerate(a) if value <= 0.5]
    expected["<= 0.5"] = (members, order[len(order) - len(members) :])
    assert list(found["bins"]) == list(expected)
    for name, (members, others) in expected.items():
        overlap = sum(i in others for i in members) / len(members) if members else None
        assert found["bins"][name] == {"n": len(members), "overlap": overlap}


def test_scores_outside_the_unit_interval_have_no_bins():
    found = compare([0.1, 0.2, 1.5], [-0.1, 0.5, 0.7])
    assert set(found) & {"bins", "binned_by"} == set()


def test_a_share_stored_as_float32_stays_at_its_threshold():
    scores = np.array([0.6, 0.7, 0.9, 0.1], dtype=np.float32)
    found = compare(scores, [1.0, 2.0, 3.0, 0.0])
    assert {name: found["bins"][name]["n"] for name in found["bins"]} == {
        "> 0.5": 3,
        "> 0.6": 2,
        "> 0.7": 1,
        "> 0.8": 1,
        "> 0.9": 0,
        "<= 0.5": 1,
    }
    assert found["bins"]["> 0.9"]["overlap"] is None


def test_by_hand():
    found = compare([4.0, 3.0, 2.0, 1.0], [3.0, 4.0, 1.0, 2.0], [1, 2, 3, 4])
    assert found["n"] == 4
    assert found["spearman"] == pytest.approx(0.6)
    assert found["kendall"] == pytest.approx(1 / 3)
    assert found["overlap"] == {"1": 0.0, "2": 1.0, "3": pytest.approx(2 / 3), "4": 1.0}
    assert found["bottom_overlap"] == {"1": 0.0, "2": 1.0, "3": pytest.approx(2 / 3), "4": 1.0}


def test_default_sizes():
    assert list(compare(range(400), range(400))["overlap"]) == ["4", "20", "40", "100"]
    assert list(compare(range(5), range(5))["overlap"]) == ["1"]


def test_samples_meet_by_id_and_keep_their_own_ties():
    # In the file of b the tied samples stand the other way round: each side selects by its own.
    a = Ranking([0, 1, 2, 3], [1.0, 1.0, 0.0, 0.0])
    b = Ranking(["3", "2", "1", "0"], [0.0, 0.0, 1.0, 1.0])
    found = agreement(pair(a, b), [1, 2])
    assert found["spearman"] == pytest.approx(1.0)
    assert found["overlap"] == {"1": 0.0, "2": 1.0}


def test_a_constant_side_agrees_by_chance_whatever_the_order_of_the_other_file():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=1000)
    best_first = np.argsort(-scores)
    a = Ranking(best_first, scores[best_first])
    found = agreement(pair(a, Ranking(range(1000), np.zeros(1000))), [500])
    assert found["spearman"] is None
    assert found["kendall"] is None
    assert found["overlap"]["500"] == pytest.approx(0.5, abs=0.1)


def test_samples_without_a_score_are_left_out_and_counted():
    a = Ranking(range(6), [5, 4, math.nan, 3, 2, 1])
    b = Ranking(range(6), [5, 4, 3, math.inf, 2, 1])
    found = agreement(pair(a, b), [4])
    assert found["n"] == 4
    assert found["spearman"] == pytest.approx(1.0)
    assert found["overlap"] == {"4": 1.0}
    assert found["left_out"] == {"only in a": 0, "only in b": 0, "without a finite score": 2}
    with pytest.raises(RankingError, match="2 samples have a finite score in both"):
        pair(Ranking(range(3), [1, 2, math.nan]), Ranking(range(3), [1, 2, 3]))


def test_ids_of_one_side_only():
    a, b = Ranking(["x", "y", "z", "u"], [4, 3, 2, 1]), Ranking(["z", "y", "x", "v"], [1, 2, 3, 4])
    with pytest.raises(RankingError, match=r"3 are the same: 1 only in a \['u'\], 1 only in b"):
        pair(a, b)
    found = agreement(pair(a, b, only_common=True), [1])
    assert found["n"] == 3
    assert found["kendall"] == pytest.approx(1.0)
    assert found["left_out"]["only in a"] == found["left_out"]["only in b"] == 1
    stranger = Ranking(["p", "q", "r"], [1, 2, 3])
    for only_common in (False, True):
        with pytest.raises(RankingError, match="different samples"):
            pair(a, stranger, only_common)


def test_what_does_not_fit_is_named(tmp_path):
    scores = Ranking(range(30), range(30))
    np.save(tmp_path / "turned.npy", np.zeros((30, 4)))
    turned = load_scores(tmp_path / "turned.npy")
    for sides in ((turned, scores), (scores, turned)):
        for only_common in (False, True):
            with pytest.raises(RankingError, match=r"30 rows and 4 columns.*Transpose"):
                pair(*sides, only_common)
    np.save(tmp_path / "right.npy", np.arange(120.0).reshape(4, 30))
    right = load_scores(tmp_path / "right.npy")
    assert agreement(pair(right, scores))["spearman"] == pytest.approx(1.0)
    named = Ranking([f"row-{i}" for i in range(30)], range(30))
    with pytest.raises(RankingError, match="0 to N - 1 only"):
        pair(right, named)


@pytest.mark.parametrize("k", [0, -1, 4, True, 1.5, "two"])
def test_sizes_that_do_not_fit(k):
    with pytest.raises(RankingError, match="does not fit 3 samples"):
        compare([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [k])
