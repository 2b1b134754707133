"""`less` against a slow loop over rows, queries and groups in float64."""

import numpy as np
import pytest
from fake_store import FakeStore, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import rank
from influcoder_lightning.errors import RankingError


class UpdatesStore(FakeStore):
    """Rows have a second code, that of the optimizer's update."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        rng = np.random.default_rng(99)
        self._update_codes = unit(rng.normal(size=self._codes.shape))
        self._records["update_length"] = rng.uniform(0.1, 1, size=len(self._codes))

    def column_names(self):
        return [*super().column_names(), "update_code"]

    def blocks(self, names, block_rows):
        for start in range(0, len(self._codes), block_rows):
            rows = slice(start, start + block_rows)
            columns = {
                n: self._update_codes if n == "update_code" else self.column(n) for n in names
            }
            yield rows, {name: values[rows].copy() for name, values in columns.items()}


def slow_less(store, places, labels):
    """({id: score}, {id: [M] scores}) in order of appearance."""
    sums = {}
    for row, name in enumerate(store.sample_ids.tolist()):
        window = int(store.column("window")[row])
        records = store.query_records(window)
        update = store._update_codes[row].astype(float)
        update *= store.column("update_length")[row] / np.linalg.norm(update)
        line = []
        for place in places:
            query = store.query_codes(window)[place].astype(float)
            query *= records["code_length"][place] / np.linalg.norm(query)
            line.append(store.column("learning_rate")[row] * float(update @ query))
        sums[name] = sums.get(name, 0) + np.array(line)
    best = {
        name: max(
            np.mean([v for v, label in zip(line, labels, strict=True) if label == one])
            for one in set(labels)
        )
        for name, line in sums.items()
    }
    return best, sums


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.integers(1, 30),
    n_windows=st.integers(1, 4),
    labels=st.lists(st.sampled_from("abc"), min_size=5, max_size=5),
    chosen=st.permutations(range(5)),
    m=st.integers(1, 5),
    block_rows=st.integers(1, 40),
    string_ids=st.booleans(),
    mapping=st.booleans(),
    seed=st.integers(0, 3),
)
def test_scores_are_those_of_a_slow_loop(
    n_rows, n_windows, labels, chosen, m, block_rows, string_ids, mapping, seed
):
    store = UpdatesStore(n_rows, 5, 6, n_windows, seed, string_ids)
    places = [place for place in chosen if place < m]
    asked, own = [f"q{place}" for place in places], [labels[place] for place in places]
    groups = {f"q{place}": label for place, label in enumerate(labels)} if mapping else own
    expected, lines = slow_less(store, places, own)
    ranking = rank(store, "less", queries=asked, groups=groups, block_rows=block_rows)
    assert ranking.sample_ids.tolist() == list(expected)
    assert ranking.query_ids.tolist() == asked
    assert sum(ranking.metadata["groups"].values()) == m
    np.testing.assert_allclose(ranking.scores, list(expected.values()), rtol=2e-5, atol=1e-9)
    table = np.array(list(lines.values())).T
    np.testing.assert_allclose(ranking.per_query, table, rtol=2e-4, atol=1e-9)
    dropped = rank(store, "less", queries=asked, groups=groups, per_query=False)
    assert dropped.per_query is None
    np.testing.assert_array_equal(dropped.scores, ranking.scores)


def test_without_groups_it_is_the_mean_over_queries():
    store = UpdatesStore()
    ranking = rank(store, "less")
    expected, _ = slow_less(store, range(5), "a" * 5)
    np.testing.assert_allclose(ranking.scores, list(expected.values()), rtol=2e-5)
    np.testing.assert_allclose(ranking.per_query.mean(axis=0), ranking.scores, rtol=1e-4)
    assert ranking.metadata["n_queries"] == 5


def test_what_it_needs_is_named():
    with pytest.raises(RankingError, match="optimizer_features=True"):
        rank(FakeStore(), "less")
    store = UpdatesStore()
    with pytest.raises(RankingError, match=r"4 entries for 5 queries.*\{query id: group\}"):
        rank(store, "less", groups=list("aabb"))
    with pytest.raises(RankingError, match=r"no group for 2 of 5 queries: \['q3', 'q4'\]"):
        rank(store, "less", groups={"q0": 1, "q1": 1, "q2": 1, "other": 1})
    store._records["learning_rate"] = 0.0
    with pytest.raises(RankingError, match=r"learning rate.*zero for all"):
        rank(store, "less")
