"""Whether a page says that a ranking follows length."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from influcoder_lightning import Ranking
from influcoder_lightning.report.findings.length_bias import find_length_bias, length_sections


class Lengths:
    """Two rows of each of 40 samples."""

    def __init__(self, **columns):
        self.sample_ids = np.tile(np.arange(40), 2)
        self._columns = columns

    def column_names(self):
        return list(self._columns)

    def column(self, name):
        return self._columns[name]


def said(ranking, store):
    (section,) = length_sections(ranking, store, k=5)
    return section.blocks[0].text


def test_it_equals_the_rank_correlation_of_means():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 50, 80)
    store, scores = Lengths(n_tokens=lengths), random.normal(size=40)
    (found,) = find_length_bias(Ranking(np.arange(40), scores), store, k=5)
    means = pd.Series(lengths).groupby(store.sample_ids).mean()
    expected = means.rank().corr(pd.Series(scores).rank())
    assert found.correlation == pytest.approx(expected)
    assert found.everyone == means.median()
    assert found.top == means[np.argsort(-scores)[:5]].median()


@pytest.mark.parametrize(("sign", "word"), [(1, "longer"), (-1, "shorter")])
def test_a_ranking_by_length_is_called_that(sign, word):
    lengths = np.tile(np.arange(40), 2) + 1.0
    ranking = Ranking(np.arange(40), sign * lengths[:40])
    store = Lengths(n_tokens=np.ones(80), n_prompt_tokens=lengths)
    assert f"samples with a {word} prompt are ahead" in said(ranking, store)
    response, prompt = find_length_bias(ranking, store, k=5)
    assert response.correlation is None
    assert prompt.correlation == pytest.approx(sign)


def test_a_ranking_that_does_not_follow_length_is_not():
    lengths = np.tile(np.random.default_rng(1).permutation(40), 2)
    assert said(Ranking(np.arange(40), np.arange(40.0)), Lengths(n_tokens=lengths)).startswith("No")


def test_of_a_store_without_prompt_lengths_only_responses_are_said():
    store = Lengths(n_tokens=np.arange(80), n_prompt_tokens=np.full(80, np.nan))
    assert [
        b.part for b in find_length_bias(Ranking(np.arange(40), np.arange(40.0)), store, 5)
    ] == ["response"]
    assert length_sections(Ranking(["other"], [1.0]), store, 5) == []
