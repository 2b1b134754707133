"""fisher, relatif and unrolled against slow loops, and in worlds where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from fake_store import FakeStore
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import rank
from influcoder_lightning.errors import RankingError


def unit(rows):
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def rows_of(store):
    return unit(store._codes) * store.column("code_length")[:, None]


def queries_of(store, window, end=False):
    lengths = store.query_records(window, end=end)["code_length"].to_numpy()
    return unit(store.query_codes(window, end=end)) * lengths[:, None]


def inverse(store, damping):
    rows = rows_of(store)
    fisher = sum(np.outer(row, row) for row in rows) / len(rows)
    largest = np.linalg.eigvalsh(fisher)[-1]
    return np.linalg.inv(fisher / largest + damping * np.eye(len(fisher)))


def slow_scores(store, damping, relative):
    """{id: [M]} by the formula, row by row and query by query."""
    solver, rows = inverse(store, damping), rows_of(store)
    windows = store.column("window")
    last, lines = windows.max(), {}
    following = {w: min(x for x in windows if x > w) for w in set(windows) if w < last}
    for place, name in enumerate(store.sample_ids.tolist()):
        window = windows[place]
        start = queries_of(store, window)
        end = queries_of(store, following.get(window, window), end=window == last)
        row = rows[place]
        values = [row @ solver @ (a + b) / 2 for a, b in zip(start, end, strict=True)]
        if relative:
            values = [value / np.sqrt(row @ solver @ row) for value in values]
        lines.setdefault(name, []).append(values)
    return {name: np.mean(values, axis=0) for name, values in lines.items()}


@given(
    st.sampled_from(["fisher", "relatif"]),
    st.integers(2, 30),
    st.integers(1, 4),
    st.sampled_from([0.01, 0.1, 3.0]),
    st.integers(1, 40),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_the_formula(method, n_rows, n_windows, damping, block_rows, seed):
    store = FakeStore(n_rows=n_rows, n_windows=n_windows, seed=seed)
    ranking = rank(store, method, damping=damping, block_rows=block_rows)
    expected = slow_scores(store, damping, method == "relatif")
    for name, score, each in zip(
        ranking.sample_ids.tolist(), ranking.scores, ranking.per_query.T, strict=True
    ):
        assert each == pytest.approx(expected[name], rel=2e-3, abs=2e-4)
        assert score == pytest.approx(expected[name].mean(), rel=2e-3, abs=2e-4)


def test_much_damping_leaves_the_projected_cosine():
    store = FakeStore(n_windows=1)
    store._end_codes = store._query_codes[0]
    fisher = rank(store, "fisher", damping=1e6).scores * 1e6
    assert fisher == pytest.approx(rank(store, "projected_cosine").scores, rel=1e-3, abs=1e-5)


def test_what_all_samples_have_in_common_counts_less():
    """Nine of ten rows pull along the first axis, one along the second; the query wants both."""
    store = FakeStore(n_rows=10, m=1, d=2, n_windows=1)
    store.sample_ids = np.arange(10)
    store._codes = np.array([[1, 0]] * 9 + [[0, 1]], dtype=np.float16)
    store._records["code_length"] = 1.0
    store._query_codes = np.full((1, 1, 2), 0.5**0.5, dtype=np.float16)
    store._end_codes = store._query_codes[0]
    store._query_norms[:] = 4.0
    assert np.ptp(rank(store, "cosine").scores) < 1e-6
    scores = rank(store, "fisher", damping=0.1).scores
    # F / largest = diag(1, 1/9): weights 1 / 1.1 and 1 / (1/9 + 0.1).
    assert scores[9] / scores[0] == pytest.approx(1.1 / (1 / 9 + 0.1), rel=1e-3)
    relative = rank(store, "relatif", damping=0.1).scores
    assert relative[9] / relative[0] == pytest.approx((1.1 / (1 / 9 + 0.1)) ** 0.5, rel=1e-3)


def test_a_window_whose_end_is_in_another_code_space_counts_its_start():
    store = FakeStore(n_windows=2)
    store._records["tower_version"] = store._records["window"]
    plain = store.query_records

    def records(window=None, end=False):
        return plain(window, end).assign(tower_version=1 if end else window)

    store.query_records = records
    ranking = rank(store, "fisher")
    rows, windows = rows_of(store), store.column("window")
    name = store.sample_ids[np.flatnonzero(windows == 0)[0]]
    values = []
    for place in np.flatnonzero(store.sample_ids == name):
        window = windows[place]
        own = rows[windows == window]
        fisher = own.T @ own / len(own)
        solver = np.linalg.inv(fisher / np.linalg.eigvalsh(fisher)[-1] + 0.1 * np.eye(store.d))
        takes = [queries_of(store, window)]
        takes += [queries_of(store, 1, end=True)] if window == 1 else []
        values.append(np.mean(takes, axis=0) @ solver @ rows[place])
    at = ranking.sample_ids.tolist().index(name)
    assert ranking.per_query[:, at] == pytest.approx(np.mean(values, axis=0), rel=2e-3, abs=2e-4)


@given(st.integers(2, 25), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_unrolled_multiplies_the_jacobians_of_all_later_steps(n_rows, rate, seed):
    store = FakeStore(n_rows=n_rows, n_windows=1, seed=seed)
    steps = np.sort(np.random.default_rng(seed).integers(0, 6, n_rows))
    store._records["step"] = steps
    ranking = rank(store, "unrolled", rate=rate)
    rows, rates = rows_of(store), store.column("learning_rate")
    rates = rates / rates.max()
    v = queries_of(store, 0, end=True).T
    expected: dict[int, np.ndarray] = {}
    for place, name in enumerate(store.sample_ids.tolist()):
        product = np.eye(store.d)
        for step in range(steps.max(), steps[place], -1):
            batch = np.flatnonzero(steps == step)
            hessian = sum(
                (rates[i] * np.outer(rows[i], rows[i]) for i in batch), np.zeros((store.d,) * 2)
            )
            product = product @ (np.eye(store.d) - rate * hessian / max(1, len(batch)))
        effect = rates[place] * v.T @ product @ rows[place]
        expected[name] = expected.get(name, 0) + effect
    for name, each in zip(ranking.sample_ids.tolist(), ranking.per_query.T, strict=True):
        assert each == pytest.approx(expected[name], rel=1e-3, abs=1e-4)


def test_a_step_that_all_agree_on_makes_earlier_ones_forgotten():
    """One direction, rate 1: what came before the last step is overwritten by it."""
    store = FakeStore(n_rows=3, m=1, d=2, n_windows=1)
    store.sample_ids = np.arange(3)
    store._codes = np.array([[1, 0]] * 3, dtype=np.float16)
    store._records["code_length"] = 1.0
    store._records["learning_rate"] = 1e-3
    store._records["step"] = [0, 1, 2]
    store._end_codes = np.array([[1, 0]], dtype=np.float16)
    scores = rank(store, "unrolled", rate=1.0).scores
    assert scores[0] == scores[1] == pytest.approx(0, abs=1e-6)
    assert scores[2] > 0.1
    assert np.ptp(rank(store, "unrolled", rate=0.0).scores) == pytest.approx(0)


def test_what_cannot_be_computed_is_refused():
    store = FakeStore()
    for method, options, message in (
        ("fisher", {"damping": 0}, "must be positive"),
        ("relatif", {"block_rows": 0}, "at least 1"),
        ("unrolled", {"rate": 1.5}, "between 0 and 1"),
    ):
        with pytest.raises(RankingError, match=message):
            rank(store, method, **options)
    frozen = FakeStore()
    frozen._records["learning_rate"] = np.nan
    with pytest.raises(RankingError, match="learning rates"):
        rank(frozen, "unrolled")
    moved = FakeStore()
    moved._records["tower_version"] = np.arange(40) % 2
    with pytest.raises(RankingError, match="2 tower versions"):
        rank(moved, "unrolled")
    old = FakeStore()
    old._records = old._records.drop(columns="code_length")
    for method in ("fisher", "relatif", "unrolled"):
        with pytest.raises(RankingError, match="lengths of the codes"):
            rank(old, method)
