"""Cosines at scale, against plain loops in float64; which columns are read, and what is kept."""

import subprocess
import sys

import numpy as np
import pytest
from fake_store import FakeStore
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import InfluenceStore, Ranking, rank
from influcoder_lightning.errors import RankingError, StoreError
from influcoder_lightning.influence import ranking_file, row_scores
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.writer import StoreWriter

FACTORS = {
    "cosine": ([], []),
    "projected_cosine": (["code_length"], ["code_length"]),
    "tracin": (["learning_rate", "grad_norm"], ["grad_norm"]),
}


def unit_64(vector):
    vector = vector.astype(np.float64)
    length = np.sqrt((vector**2).sum())
    return vector / length if length > 0 else vector


def slow_scores(store, method, places):
    """{id: [M] scores} in order of appearance, row by row and query by query."""
    row_factors, query_factors = FACTORS[method]
    lines = {}
    for row, name in enumerate(store.sample_ids.tolist()):
        window = int(store.column("window")[row])
        queries = store.query_records(window)
        line = []
        for place in places:
            value = unit_64(store._codes[row]) @ unit_64(store.query_codes(window)[place])
            for column in row_factors:
                value *= float(store.column(column)[row])
            for column in query_factors:
                value *= float(queries[column][place])
            line.append(value)
        lines.setdefault(name, []).append(line)
    combine = np.sum if method == "tracin" else np.mean
    return {name: combine(rows, axis=0) for name, rows in lines.items()}


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(sorted(FACTORS)),
    n_rows=st.integers(1, 30),
    n_windows=st.integers(1, 7),
    m=st.integers(1, 4),
    string_ids=st.booleans(),
    block_rows=st.integers(1, 40),
    chosen=st.permutations(range(4)),
    zero=st.booleans(),
    seed=st.integers(0, 5),
)
def test_scores_are_those_of_plain_loops(
    method, n_rows, n_windows, m, string_ids, block_rows, chosen, zero, seed
):
    store = FakeStore(n_rows, m, 6, n_windows, seed, string_ids)
    if zero:
        store._codes[0] = 0
    places = [place for place in chosen if place < m]
    expected = slow_scores(store, method, places)
    asked = [f"q{place}" for place in places]
    kept = rank(store, method, queries=asked, block_rows=block_rows)
    assert kept.sample_ids.tolist() == list(expected)
    table = np.array(list(expected.values()))
    np.testing.assert_allclose(kept.per_query, table.T, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(kept.scores, table.mean(axis=1), rtol=2e-5, atol=2e-6)
    dropped = rank(store, method, queries=asked, block_rows=block_rows, per_query=False)
    assert dropped.per_query is None
    assert dropped.query_ids.tolist() == asked
    np.testing.assert_array_equal(dropped.scores, kept.scores)
    np.testing.assert_array_equal(dropped.ranks, kept.ranks)
    whole = rank(store, method, queries=asked, block_rows=100)
    np.testing.assert_array_equal(whole.scores, kept.scores)


def test_scores_of_each_query_are_kept_up_to_a_size_or_when_asked_for(monkeypatch):
    store = FakeStore()
    size = rank(store).per_query.nbytes
    monkeypatch.setattr(row_scores, "PER_QUERY_BYTES", size)
    assert rank(store).metadata["per_query_kept"]
    monkeypatch.setattr(row_scores, "PER_QUERY_BYTES", size - 1)
    small = rank(store)
    assert small.per_query is None
    assert not small.metadata["per_query_kept"]
    assert rank(store, per_query=True).per_query.nbytes == size


def test_what_was_not_kept_cannot_be_saved_and_the_way_is_named(tmp_path):
    ranking = rank(FakeStore(), per_query=False)
    ranking.save(tmp_path / "ranking.csv")
    with pytest.raises(RankingError, match=r"rank\(..., per_query=True\)"):
        ranking.save(tmp_path / "ranking.csv", per_query=True)


@pytest.mark.parametrize("per_query", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(per_query, value):
    store = FakeStore()
    store._codes[3, 0] = value
    with pytest.raises(RankingError, match=f"1 samples.*{store.sample_ids[3]}"):
        rank(store, per_query=per_query, block_rows=4)
    store = FakeStore()
    store._records.loc[3, "grad_norm"] = value
    with pytest.raises(RankingError, match=f"1 samples.*{store.sample_ids[3]}"):
        rank(store, "tracin", per_query=per_query)
    store = FakeStore(n_windows=1)
    store._query_codes[0, 1, 0] = value
    with pytest.raises(RankingError, match="not finite"):
        rank(store, per_query=per_query)


ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40),
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    # No NUL: it ends a text in HDF5, and ids with one are refused.
    st.lists(st.text(st.characters(exclude_characters="\0"), max_size=2), min_size=1, max_size=40),
)


@settings(max_examples=100, deadline=None)
@given(row_ids=ids)
def test_rows_find_their_samples(row_ids):
    text = isinstance(row_ids[0], str)
    rows = SampleRows(np.array(row_ids, dtype=object if text else np.int64))
    order = list(dict.fromkeys(row_ids))
    assert rows.sample_ids.tolist() == order
    assert rows.index.tolist() == [order.index(i) for i in row_ids]
    assert rows.counts.tolist() == [row_ids.count(i) for i in order]


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0, -1.0, float("nan")]), min_size=1, max_size=20)
)
def test_the_best_are_the_start_of_the_order(scores):
    ranking = Ranking(np.arange(len(scores)), scores)
    known = [i for i, s in enumerate(scores) if s == s]
    best = sorted(known, key=lambda i: (-scores[i], i))
    unknown = [i for i, s in enumerate(scores) if s != s]
    assert ranking.order.tolist() == best + unknown
    for k in range(1, len(best) + 1):
        assert ranking.top_k(k) == best[:k]


def test_a_file_is_written_in_stretches(tmp_path, monkeypatch):
    ranking = Ranking(np.arange(7), np.array([3, 1, 2, 9, 8, 7, 0.5]))
    ranking.save(tmp_path / "one.csv")
    monkeypatch.setattr(ranking_file, "_BLOCK", 3)
    ranking.save(tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    assert (tmp_path / "two.csv").read_text().splitlines()[1:3] == ["3,9.0,1", "4,8.0,2"]


@pytest.fixture
def store_file(tmp_path):
    """A store of 20 rows of 10 samples in two windows, with 3 queries."""
    rng = np.random.default_rng(0)
    path = tmp_path / "influence.h5"
    writer = StoreWriter.create(
        path, code_dim=4, sketch_dim=8, keep_sketches=False, layers=[("l", 2, 2, 0)], attributes={}
    )

    def feature(n):
        codes = rng.normal(size=(n, 4)).astype("f2")
        return FeatureBlock(norm=rng.random(n), code=codes, length=rng.random(n))

    shared = {"n_tokens": 3, "loss": 1.0, "tower_version": 0}
    for window in range(2):
        columns = {"epoch": window, "step": 0, "learning_rate": 0.1, "window": window}
        writer.append("rows", [*range(10)], shared | columns, feature(10))
        columns = {"query": np.arange(3), "at_end": 0, "window": window}
        writer.append("queries", [*range(3)], shared | columns, feature(3))
        values = {"start_step": 0, "end_step": 1, "drift": 1.0, "n_rows": 10}
        writer.append_window(window=window, epoch=window, tower_version=0, **values)
    writer.close(True)
    return path


def test_a_store_is_read_in_blocks(store_file):
    store = InfluenceStore(store_file)
    records = store.records()
    names = [name for name in records if name != "sample_id"]
    assert set(store.column_names()) == {*names, "code"}
    for name in names:
        np.testing.assert_array_equal(store.column(name), records[name])
    parts = [
        (rows, columns["code"].copy(), columns["grad_norm"].copy())
        for rows, columns in store.blocks(["code", "grad_norm"], 7)
    ]
    assert [(rows.start, rows.stop) for rows, _, _ in parts] == [(0, 7), (7, 14), (14, 20)]
    np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), store.codes())
    np.testing.assert_array_equal(np.concatenate([p[2] for p in parts]), records["grad_norm"])
    for read in (lambda: store.column("colour"), lambda: next(store.blocks(["colour"], 5))):
        with pytest.raises(StoreError, match=r"no column colour; they have window, epoch"):
            read()


@pytest.mark.parametrize("method", sorted(FACTORS))
def test_scores_of_a_file_are_those_of_plain_loops(store_file, method):
    store = InfluenceStore(store_file)
    store._codes = store.codes()
    expected = slow_scores(store, method, range(3))
    ranking = store.rank(method, block_rows=6)
    assert ranking.sample_ids.tolist() == list(expected)
    table = np.array(list(expected.values()))
    np.testing.assert_allclose(ranking.per_query, table.T, rtol=1e-5, atol=1e-6)


def test_ranking_a_file_needs_no_torch(store_file):
    code = (
        "import sys; from influcoder_lightning import InfluenceStore;"
        f"r = InfluenceStore({str(store_file)!r}).rank('tracin'); r.top_k(2);"
        "print([m for m in ('torch', 'lightning', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
