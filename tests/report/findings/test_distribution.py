"""Distribution of scores: numbers against numpy, bars against the samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.errors import RankingError
from influcoder_lightning.report.findings.distribution import (
    QUANTILES,
    describe_scores,
    plot_distribution,
)

SCORES = st.lists(
    st.floats(-1e6, 1e6) | st.just(float("nan")) | st.integers(-2, 2).map(float),
    min_size=1,
    max_size=60,
)


@given(scores=SCORES, k=st.integers(1, 80))
def test_every_scored_sample_is_in_a_bar(scores, k):
    ranking = Ranking(list(range(len(scores))), scores)
    found = describe_scores(ranking, k)
    finite = np.array(scores)[np.isfinite(scores)]
    if not len(finite):
        assert found is None
        return
    groups = ["ab"[i % 2] for i in range(len(scores))]
    figure, beyond = plot_distribution(ranking, found, groups)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == len(finite)
    assert 0 <= beyond < max(1, len(finite))
    assert found.without == len(scores) - len(finite)
    assert found.quantiles == tuple(np.quantile(finite, QUANTILES))
    assert found.threshold == sorted(finite, reverse=True)[min(k, len(finite)) - 1]
    assert found.positive == np.mean(finite > 0)


def test_outliers_do_not_squeeze_the_others():
    scores = [*np.random.default_rng(0).normal(size=500), 1e6, -1e6]
    ranking = Ranking(list(range(502)), scores)
    figure, beyond = plot_distribution(ranking, describe_scores(ranking, 10))
    assert beyond == 2
    low, high = figure.axes[0].get_xlim()
    assert high - low < 60
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert max(heights) < 100
    assert sum(heights) == 502


def test_many_groups_share_a_colour_at_the_end():
    ranking = Ranking(list(range(40)), np.arange(40.0))
    groups = [f"_task ${i % 20}$" for i in range(40)]
    figure, _ = plot_distribution(ranking, describe_scores(ranking), groups)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(names) == 8
    assert names[0] == "13 others (26)"
    figure.draw_without_rendering()


def test_the_line_of_the_top_k_is_on_the_axis():
    ranking = Ranking(list(range(300)), [*np.zeros(299), 50.0])
    found = describe_scores(ranking, 1)
    figure, _ = plot_distribution(ranking, found)
    low, high = figure.axes[0].get_xlim()
    assert low < found.threshold == 50 < high


def test_a_sample_without_a_group_is_refused():
    ranking = Ranking([1, 2], [1.0, 2.0])
    with pytest.raises(RankingError, match="no group"):
        plot_distribution(ranking, describe_scores(ranking), {1: "a"})
