"""What release 0.1.0 wrote opens, and goes on; see `make_release_0_1.py`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import released

from influcoder_lightning import InfluenceStore


def opened(folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = InfluenceStore(folder / "store")
    return store, " ".join(str(w.message) for w in caught)


def goes_on(folder, co_train):
    """The store after the run went on from its checkpoint, beside one that never stopped."""
    released.run(folder, co_train=co_train, ckpt=str(folder / "last.ckpt"))
    whole = folder.parent / "whole"
    released.run(whole, co_train=co_train)
    return opened(folder)[0], opened(whole)[0]


def same_rows(store, whole):
    assert store.attributes["complete"]
    assert store.sample_ids.tolist() == whole.sample_ids.tolist()
    assert store.records()["step"].tolist() == whole.records()["step"].tolist()
    np.testing.assert_allclose(store.sketches(), whole.sketches(), rtol=1e-4, atol=1e-5)


def test_a_finished_store_opens(tmp_path):
    store, _ = opened(released.unpacked("finished", tmp_path))
    assert len(store) == released.ROWS
    assert store.attributes["complete"]
    assert store.windows["n_rows"].tolist() == [released.N_SAMPLES] * 2
    assert store.codes().dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(store.codes().astype("f4"), axis=1), 1, atol=2e-3)
    assert store.rank("cosine").sample_ids.size == released.N_SAMPLES


def test_a_killed_run_opens_with_what_it_had_sealed(tmp_path):
    store, said = opened(released.unpacked("killed", tmp_path))
    assert len(store) == 32
    assert "was killed" in said
    assert sorted(store.sample_ids[: released.N_SAMPLES]) == list(range(released.N_SAMPLES))


@pytest.mark.parametrize(("name", "co_train"), [("finished", False), ("killed", True)])
def test_a_run_goes_on(tmp_path, name, co_train):
    same_rows(*goes_on(released.unpacked(name, tmp_path), co_train))
