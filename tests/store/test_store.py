"""The store file: what is refused, and with which words."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from conftest import FineTuning, loader, tokens, trainer

from influcoder_lightning import InfluenceCallback, InfluenceStore
from influcoder_lightning.errors import DataError, StoreError
from influcoder_lightning.store.folder import RunFolder, refuse_existing
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.writer import StoreWriter


def small_store(folder, ids=(3, 1, 2)):
    folder.mkdir(parents=True, exist_ok=True)
    writer = StoreWriter.create(
        folder / "influence.h5",
        code_dim=4,
        sketch_dim=8,
        keep_sketches=False,
        layers=[("a.lora_A", 2, 4, 0)],
        attributes={"config": {"mode": "frozen"}},
    )
    n = len(ids)
    columns = {
        "window": 0,
        "epoch": 0,
        "step": 0,
        "n_tokens": np.arange(n),
        "loss": np.nan,
        "learning_rate": 1.0,
        "tower_version": 0,
    }
    block = FeatureBlock(np.ones(n, "f4"), np.eye(n, 4, dtype="f2"), np.ones(n, "f4"))
    writer.append("rows", list(ids), columns, block)
    writer.close(complete=True)
    return folder


@pytest.mark.parametrize("ids", [(3, 1, 2), ("b", "ü", "a")])
def test_ids_come_back_as_they_were(tmp_path, ids):
    store = InfluenceStore(small_store(tmp_path / "s", ids))
    assert store.sample_ids.tolist() == list(ids)
    assert store.codes().dtype == np.float16
    assert store.codes(slice(1, 3)).shape == (2, 4)
    assert len(store) == 3


def test_mixed_ids_are_refused(tmp_path):
    small_store(tmp_path / "s", (2,))
    path = tmp_path / "s" / "influence.h5"
    block = FeatureBlock(np.ones(2, "f4"), np.zeros((2, 4), "f2"), np.ones(2, "f4"))
    before = path.read_bytes()
    with (
        pytest.raises(DataError, match="mix integers and text"),
        StoreWriter.extended(path) as writer,
    ):
        writer.append("rows", (1, "b"), {}, block)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["influence.h5"]


@pytest.mark.parametrize("path", ["folder", "file", "run"])
def test_a_store_opens_by_folder_file_or_run_folder(tmp_path, path):
    folder = small_store(tmp_path / "run" / "influence")
    where = {"folder": folder, "file": folder / "influence.h5", "run": tmp_path / "run"}[path]
    assert len(InfluenceStore(where)) == 3


def test_missing(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        InfluenceStore(tmp_path)


def test_no_hdf5(tmp_path):
    (tmp_path / "influence.h5").write_bytes(b"PK\x03\x04 this is something else")
    with pytest.raises(StoreError, match="no readable HDF5 file"):
        InfluenceStore(tmp_path)


def test_truncated(tmp_path):
    path = small_store(tmp_path) / "influence.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StoreError, match="truncated"):
        InfluenceStore(tmp_path)


def test_other_hdf5(tmp_path):
    with h5py.File(tmp_path / "influence.h5", "x") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="no influence store"):
        InfluenceStore(tmp_path)


def test_other_schema(tmp_path):
    small_store(tmp_path)
    with h5py.File(tmp_path / "influence.h5", "a") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(StoreError, match="schema version 99"):
        InfluenceStore(tmp_path)


def test_columns_of_different_length(tmp_path):
    small_store(tmp_path)
    with h5py.File(tmp_path / "influence.h5", "a") as file:
        file["rows/loss"].resize(1, axis=0)
    with pytest.raises(StoreError, match="differ in length"):
        InfluenceStore(tmp_path)


def test_sketches_that_were_not_kept(tmp_path):
    store = InfluenceStore(small_store(tmp_path))
    with pytest.raises(StoreError, match="keep_sketches=True"):
        store.sketches()
    with pytest.raises(StoreError, match="query_dataloader"):
        store.query_codes()
    with pytest.raises(StoreError, match="text tower"):
        store.text_tower()


def test_overwriting_leaves_other_files_alone(tmp_path):
    small_store(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="overwrite=True"):
        refuse_existing(tmp_path, overwrite=False)
    refuse_existing(tmp_path, overwrite=True)
    run = RunFolder(tmp_path)
    run.start({"world_size": 1})
    run.release()
    assert not (tmp_path / "influence.h5").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_callback_refuses_an_existing_store(tmp_path):
    small_store(tmp_path / "s")
    callback = InfluenceCallback(str(tmp_path / "s"), sketch_dim=64, code_dim=8)
    with pytest.raises(StoreError, match="already holds a store"):
        trainer(tmp_path, [callback]).fit(FineTuning(), loader(tokens(4)))
    assert len(InfluenceStore(tmp_path / "s")) == 3


def test_bytes_per_row_stay_small(tmp_path):
    """Columns besides the code cost at most 64 bytes a row."""
    writer = StoreWriter.create(
        tmp_path / "influence.h5",
        code_dim=512,
        sketch_dim=8,
        keep_sketches=False,
        layers=[],
        attributes={},
    )
    n = 20_000
    columns = dict.fromkeys(
        ("window", "epoch", "step", "n_tokens", "loss", "learning_rate", "tower_version"), 1
    )
    block = FeatureBlock(np.ones(n, "f4"), np.zeros((n, 512), "f2"), np.ones(n, "f4"))
    writer.append("rows", list(range(n)), columns, block)
    writer.close(complete=True)
    assert (tmp_path / "influence.h5").stat().st_size / n < 1024 + 64 + 32
