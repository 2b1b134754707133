"""The list of samples against the ranking that it shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.report.findings import samples
from influcoder_lightning.report.findings.ambiguous import spread_over_queries
from influcoder_lightning.report.findings.samples import samples_of

scores = st.lists(st.floats(-5, 5) | st.just(np.nan), min_size=2, max_size=60)


def pool(n):
    rows = [{"prompt": f"p{i}", "response": f"r{i}", "task": f"t{i % 3}"} for i in range(n)]
    return rows, [f"id{i}" for i in range(n)]


@given(scores)
@settings(deadline=None)  # pandas loads in the first
def test_every_scored_sample_is_there_best_first(values):
    rows, ids = pool(len(values))
    ranking = Ranking(ids, values)
    found = samples_of(ranking, rows, ids, selected=ids[:2])
    frame = ranking.to_frame().dropna()
    assert found.columns == ["rank", "score", "percentile", "sample", "task", "prompt", "response"]
    assert [row[:2] + row[3:4] for row in found.rows] == list(
        zip(frame["rank"], frame["score"], frame["sample_id"], strict=True)
    )
    for row in found.rows:
        at = int(row[3].removeprefix("id"))
        assert row[4:] == (f"t{at % 3}", f"p{at}", f"r{at}")
    if len(found.rows) > 1:
        assert found.rows[0][2] == 0
        assert found.rows[-1][2] == 100
    assert {found.rows[place][3] for place in found.marks.get("selected", [])} <= set(ids[:2])
    if len(frame):
        assert found.rows[found.marks["worst"][0]][3] == ranking.bottom_k(1)[0]


def test_samples_on_which_queries_disagree_are_marked():
    rng = np.random.default_rng(0)
    per_query = rng.normal(size=(6, 50))
    per_query[:3, 7], per_query[3:, 7] = 9, -9  # half put it first, half last
    rows, ids = pool(50)
    ranking = Ranking(ids, per_query.mean(axis=0), per_query=per_query)
    found = samples_of(ranking, rows, ids, spread_over_queries(ranking))
    most = found.rows[found.marks["most ambiguous"][0]]
    assert most[found.columns.index("sample")] == "id7"
    assert most[found.columns.index("spread")] == pytest.approx(0.5)


def test_of_a_large_pool_the_ends_and_the_marked_stay(monkeypatch):
    monkeypatch.setattr(samples, "_ENDS", 5)
    rows, ids = pool(100)
    found = samples_of(Ranking(ids, -np.arange(100.0)), rows, ids)
    assert found.n == 100
    assert [row[0] for row in found.rows] == [1, 2, 3, 4, 5, 96, 97, 98, 99, 100]
    assert [found.rows[place][0] for place in found.marks["worst"][:2]] == [100, 99]
