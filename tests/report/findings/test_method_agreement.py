"""Agreement of methods: correlations against scipy's, and what is said of them."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from influcoder_lightning import Ranking
from influcoder_lightning.errors import RankingError
from influcoder_lightning.report.findings.method_agreement import (
    Agreement,
    find_agreement,
    plot_agreement_map,
    say_agreement,
)
from influcoder_lightning.report.press.svg import chart_svg


@given(n=st.integers(3, 40), seed=st.integers(0, 2**16), ids=st.booleans())
def test_the_correlations_are_scipys(n, seed, ids):
    random = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(n)] if ids else list(range(n))
    sides = {name: random.integers(0, 6, size=n).astype(float) for name in "abc"}
    sides["b"][random.integers(n)] = np.nan
    turned = random.permutation(n)
    rankings = {"a": Ranking(names, sides["a"]), "b": Ranking(names, sides["b"])}
    rankings["c"] = Ranking([names[i] for i in turned], sides["c"][turned])
    found = find_agreement(rankings)
    for first in "abc":
        for second in "abc":
            both = np.isfinite(sides[first]) & np.isfinite(sides[second])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a constant side
                expected = spearmanr(sides[first][both], sides[second][both]).statistic
            if both.sum() < 3:
                expected = np.nan
            np.testing.assert_allclose(found.of(first, second), expected, atol=1e-9)


def test_each_pair_is_compared_on_what_both_have_scored():
    whole = Ranking(list(range(10)), np.arange(10.0))
    part = Ranking([9, 1, 5, 3], [0.9, 0.1, 0.5, 0.3])
    found = find_agreement({"whole": whole, "part": part})
    assert found.counts.tolist() == [[10, 4], [4, 4]]
    assert found.of("whole", "part") == pytest.approx(1)


def test_one_method_alone_is_refused():
    with pytest.raises(RankingError, match="two rankings or more"):
        find_agreement({"a": Ranking([0], [1.0])})


def said(value, of="length"):
    names = ["fisher", "cosine", of, "random"]
    spearman = np.eye(4)
    spearman[0] = spearman[:, 0] = [1, 0.9, value, 0.01]
    found = Agreement(names, spearman, np.full((4, 4), 100))
    return say_agreement(found, "fisher", ["loss", "length"])


def test_a_ranking_that_a_simple_score_explains_is_called_so():
    assert "Closest to fisher is cosine (Spearman 0.90)" in said(0.1)
    assert "No simple score explains the ranking; the nearest is length (0.10)" in said(0.1)
    assert "length alone gives nearly the same order (0.80)" in said(0.8)
    assert "order turned round (-0.80)" in said(-0.8)
    assert "random control is at 0.01" in said(0.1)
    alone = Agreement(["a", "b"], np.array([[1, np.nan], [np.nan, 1]]), np.zeros((2, 2), int))
    assert "No other method" in say_agreement(alone, "a", [])


def test_the_map_has_every_number_and_no_colour_of_its_own():
    random = np.random.default_rng(0)
    rankings = {f"method {i}": Ranking(list(range(30)), random.normal(size=30)) for i in range(4)}
    rankings["flat"] = Ranking(list(range(30)), np.zeros(30))
    found = find_agreement(rankings)
    text = chart_svg(plot_agreement_map(found, "method 1"), "map", "caption")
    for row in range(4):
        for column in range(row):
            assert f"{found.spearman[row, column]:.2f}".replace("-", "") in text
    assert "#" not in "".join(part[:12] for part in text.split("fill: ")[1:])
