"""What other tools read is what was ranked."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
from conftest import FineTuning, loader, tiny_peft, tokens, trainer
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import InfluenceCallback, InfluenceStore, Ranking, write_jsonl
from influcoder_lightning.errors import ConfigError, RankingError
from influcoder_lightning.export import to_dataset, to_date_lm, to_faiss

ROWS = [{"prompt": f"p{i}", "response": f"r{i}", "id": f"s{i}"} for i in range(4)]
RANKING = Ranking(["s2", "s0", "s3", "s1"], [0.2, 0.0, 0.3, 0.1], method="test")


def without(monkeypatch, name):
    real = builtins.__import__

    def refuse(module, *args, **options):
        if module.split(".")[0] == name:
            raise ImportError(name)
        return real(module, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


# --------------------------------------------------------------------------------- DATE-LM


def test_metrics_are_positional_float32_and_higher_is_better(tmp_path):
    to_date_lm(RANKING, tmp_path / "metrics.npy", ROWS)
    metrics = np.load(tmp_path / "metrics.npy")  # refuses pickles
    assert metrics.dtype == np.float32
    assert metrics.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    # As its select_data.py chooses.
    assert set(np.argpartition(metrics, -2)[-2:]) == {2, 3}


@settings(deadline=None, max_examples=40)
@given(order=st.permutations(range(6)))
def test_rows_without_ids_need_no_pool(tmp_path_factory, order):
    path = tmp_path_factory.mktemp("metrics") / "metrics.npy"
    to_date_lm(Ranking(order, [float(i) for i in order]), path)
    assert np.load(path).tolist() == list(range(6))


def test_scores_of_the_applications(tmp_path):
    to_date_lm(RANKING, tmp_path / "score.json", ROWS)
    assert json.loads((tmp_path / "score.json").read_text()) == pytest.approx([0, 0.1, 0.2, 0.3])
    both = Ranking(
        ["s1", "s0"], [2.0, 1.0], per_query=np.array([[3.0, 1.0], [1.0, 1.0]]), query_ids=[0, 1]
    )
    to_date_lm(both, tmp_path / "score.json", ROWS[:2], per_query=True)
    assert json.loads((tmp_path / "score.json").read_text()) == [[1, 3], [1, 1]]


def test_what_date_lm_cannot_have(tmp_path):
    with pytest.raises(ConfigError, match=r"\.npy .* or \.json"):
        to_date_lm(RANKING, tmp_path / "metrics.csv", ROWS)
    with pytest.raises(ConfigError, match="per_query=True"):
        to_date_lm(RANKING, tmp_path / "metrics.npy", ROWS, per_query=True)
    with pytest.raises(RankingError, match="no scores per query"):
        to_date_lm(RANKING, tmp_path / "score.json", ROWS, per_query=True)
    with pytest.raises(RankingError, match=r"4 ranked ids have no row \['s0'"):
        to_date_lm(RANKING, tmp_path / "metrics.npy")
    with pytest.raises(RankingError, match=r"1 rows of the pool have no score \['s9'\]"):
        to_date_lm(RANKING, tmp_path / "metrics.npy", [*ROWS, ROWS[0] | {"id": "s9"}])
    with pytest.raises(RankingError, match="1 scores are not finite"):
        to_date_lm(Ranking([0, 1], [0.0, float("nan")]), tmp_path / "metrics.npy")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------- datasets


@pytest.mark.parametrize("kind", ["rows", "path", "dataset"])
def test_a_datasets_folder_with_score_and_rank(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    rows = [row | ({"task": "a"} if i == 2 else {}) for i, row in enumerate(ROWS)]
    write_jsonl(rows, tmp_path / "pool.jsonl")
    pools = {
        "rows": rows,
        "path": tmp_path / "pool.jsonl",
        "dataset": datasets.Dataset.from_list([{"task": None, **row} for row in rows]),
    }
    to_dataset(RANKING, pools[kind], tmp_path / "scored")
    loaded = list(datasets.load_from_disk(str(tmp_path / "scored")))
    assert [row.pop("influence_score") for row in loaded] == [0.0, 0.1, 0.2, 0.3]
    assert [row.pop("influence_rank") for row in loaded] == [4, 3, 2, 1]
    assert loaded == [{"task": None, **row} for row in rows]


def test_what_makes_no_dataset(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    with pytest.raises(RankingError, match="different ids"):
        to_dataset(RANKING, ROWS[:3], tmp_path / "scored")
    mixed = [row | {"x": i if i else "text"} for i, row in enumerate(ROWS)]
    with pytest.raises(ConfigError, match="do not fit into columns"):
        to_dataset(RANKING, mixed, tmp_path / "scored")
    with pytest.raises(ConfigError, match="exists already"):
        to_dataset(RANKING, ROWS, tmp_path)
    without(monkeypatch, "datasets")
    with pytest.raises(ConfigError, match="pip install datasets"):
        to_dataset(RANKING, ROWS, tmp_path / "scored")


# ----------------------------------------------------------------------------------- FAISS


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> InfluenceStore:
    """Two windows, so that samples have two rows each."""
    folder = tmp_path_factory.mktemp("store")
    callback = InfluenceCallback(
        str(folder / "store"), query_dataloader=loader(tokens(3, seed=2), 3), sketch_dim=64,
        code_dim=8, co_train=False,
    )  # fmt: skip
    trainer(folder, [callback], max_epochs=2).fit(FineTuning(tiny_peft()), loader(tokens(12), 4))
    return InfluenceStore(folder / "store")


def test_the_nearest_samples_of_a_query(store, tmp_path):
    faiss = pytest.importorskip("faiss")
    index, ids = to_faiss(store, tmp_path / "samples.faiss")
    queries = store.query_codes(end=True).astype(np.float32)
    cosines, places = index.search(queries, 4)
    # By hand: the mean of a sample's unit codes, then all cosines.
    codes = store.codes().astype(np.float64)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    means = np.stack([codes[store.sample_ids == name].mean(axis=0) for name in ids])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = queries @ means.T
    order = np.argsort(-expected, axis=1)[:, :4]
    assert ids[places].tolist() == ids[order].tolist()
    np.testing.assert_allclose(cosines, np.take_along_axis(expected, order, 1), atol=1e-5)
    # What is on the disk answers alike.
    again = faiss.read_index(str(tmp_path / "samples.faiss"))
    assert again.search(queries, 4)[1].tolist() == places.tolist()
    assert json.loads((tmp_path / "samples.ids.json").read_text()) == ids.tolist()
    assert len(list(tmp_path.iterdir())) == 2


def test_without_faiss(store, monkeypatch):
    without(monkeypatch, "faiss")
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        to_faiss(store)
