"""The store's checksums: damage is noticed while reading, or changes nothing."""

from __future__ import annotations

import warnings
from random import Random

import h5py
import numpy as np
import pytest
from small_store import everything, write

from influcoder_lightning import InfluenceStore
from influcoder_lightning.errors import StoreError
from influcoder_lightning.store import schema

FLIPS = 50


@pytest.mark.parametrize("ids", [range(40), [f"id {i}" for i in range(40)]], ids=["int", "text"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, ids):
    path = tmp_path / "influence.h5"
    write(path, list(ids), code_dtype="int8")
    sound, truth = path.read_bytes(), everything(path)
    random = Random(0)
    used = [place for place, byte in enumerate(sound) if byte]
    for place in random.sample(used, FLIPS):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        try:
            assert everything(path) == truth, place
        except StoreError:
            continue


def test_every_data_set_has_a_checksum_and_nothing_lies_in_a_heap(tmp_path):
    path = tmp_path / "influence.h5"
    write(path, ["a", "b"])
    with h5py.File(path) as file:

        def check(name, node):
            if isinstance(node, h5py.Dataset):
                assert node.fletcher32, name
                assert not node.dtype.hasobject, name

        file.visititems(check)
        assert all(file.attrs.get_id(name).dtype.kind != "O" for name in file.attrs)


def test_damaged_codes_are_said_to_be_the_codes(tmp_path):
    path = tmp_path / "influence.h5"
    write(path, [1, 2, 3])
    with h5py.File(path) as file:
        at = file["rows/features/gradient/code"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    store = InfluenceStore(path)  # opening reads no codes
    with pytest.raises(StoreError, match="rows/features/gradient/code"):
        store.rank("cosine")
    with pytest.raises(StoreError, match="rows/features/gradient/code"):
        store.codes()


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"shuffle": True}])
def test_no_filter_but_the_checksum_is_run(tmp_path, options):
    path = tmp_path / "influence.h5"
    write(path, [1, 2, 3])
    with h5py.File(path, "r+") as file:
        del file["rows/loss"]
        file.create_dataset("rows/loss", data=np.zeros(3, "f4"), chunks=(3,), **options)
    with pytest.raises(StoreError, match="rows/loss"):
        InfluenceStore(path)


def test_a_chunk_is_no_larger_than_what_is_stored(tmp_path):
    path = tmp_path / "influence.h5"
    write(path, [1, 2, 3])
    with h5py.File(path, "r+") as file:
        del file["rows/loss"]
        loss = file.create_dataset(
            "rows/loss", (3,), "f4", chunks=(1 << 28,), maxshape=(None,), fletcher32=True
        )
        loss.id.write_direct_chunk((0,), b"\0" * 64)
    with pytest.raises(StoreError, match="rows/loss"):
        InfluenceStore(path)


@pytest.mark.parametrize("added", sorted(schema.ADDED_COLUMNS))
def test_a_store_of_the_first_schema_says_what_it_lacks(tmp_path, added):
    path = tmp_path / "influence.h5"
    write(path, [1, 2, 3])
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 1
        del file[f"rows/{added}"]
    with pytest.warns(UserWarning, match="earlier release: it has no checksums"):
        store = InfluenceStore(path)
    assert store.records()[added].isna().all()
    assert np.isnan(store.column(added)).all()
    blocks = [block[added].copy() for _, block in store.blocks([added], 2)]
    assert [len(block) for block in blocks] == [2, 1]
    assert np.isnan(np.concatenate(blocks)).all()


def test_a_store_of_this_schema_opens_without_a_word(tmp_path):
    write(tmp_path / "influence.h5", [1, 2, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InfluenceStore(tmp_path)
