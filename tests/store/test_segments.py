"""Segments: what was reported as written is there, whatever happens in between."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import sealed_line

from influcoder_lightning import InfluenceStore
from influcoder_lightning.errors import CaptureError, DataError, StoreError
from influcoder_lightning.store.folder import RunFolder, rank_folder, read_description
from influcoder_lightning.store.segments import FeatureBlock, SegmentWriter
from influcoder_lightning.valuation.finish import finish

WIDTH = 6


def begin(folder, n_processes=1):
    run = RunFolder(folder)
    run.start(
        {
            "world_size": n_processes,
            "bounds": {"rows": 4, "seconds": 60.0},
            "store": {
                "code_dim": 3,
                "sketch_dim": WIDTH,
                "keep_sketches": True,
                "layers": [("a", 2, 3, 0)],
                "attributes": {"config": {"mode": "training"}},
            },
        }
    )
    return run


def writer(folder, rank=0, max_rows=10**6):
    return SegmentWriter(folder, rank, max_rows=max_rows, max_seconds=3600)


def put(segments, ids, waiting=True, window=0, step=0):
    """Rows whose sketch says which they are."""
    n = len(ids)
    sketch = np.array([[i, 1, 2, 3, 4, 5] for i in ids], dtype="f4")
    block = FeatureBlock(norm=np.linalg.norm(sketch, axis=1), sketch=sketch)
    if not waiting:
        block.code, block.length = np.ones((n, 3), "f2"), np.ones(n, "f4")
    columns = {"window": window, "epoch": 0, "step": step, "n_tokens": 1, "loss": 0.5}
    columns |= {"learning_rate": 0.1, "tower_version": -1 if waiting else 0}
    segments.see(ids)
    segments.append("rows", ids, columns, block)


def window(segments, index=0, version=-1):
    entry = {"window": index, "epoch": 0, "start_step": 0, "end_step": -1, "n_rows": 0}
    segments.put_window(entry | {"tower_version": version, "drift": float("nan")})


def test_a_crash_costs_the_open_segment_only(tmp_path):
    run = begin(tmp_path)
    segments = writer(tmp_path)
    window(segments)
    put(segments, [1, 2, 3])
    segments.seal()
    put(segments, [4, 5])
    run.release()  # as the system does when the process dies
    with pytest.warns(UserWarning, match=r"was killed; .* at most 4 rows or 60 seconds.* 3 rows"):
        store = InfluenceStore(tmp_path)
    assert store.sample_ids.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(store.sketches()[:, 0], [1, 2, 3])
    assert store.codes().shape == (3, 3)
    assert not store.attributes["complete"]
    assert store.windows.n_rows.tolist() == [3]


def test_a_live_run_is_left_alone(tmp_path):
    run = begin(tmp_path)
    with pytest.raises(StoreError, match="being written by another process"):
        InfluenceStore(tmp_path)
    with pytest.raises(StoreError, match="being written by another process"):
        RunFolder(tmp_path)
    run.release()


def test_a_missing_segment_is_named(tmp_path):
    run = begin(tmp_path)
    segments = writer(tmp_path)
    for ids in ([1, 2], [3]):
        put(segments, ids)
        window(segments)
        segments.seal()
    run.release()
    (rank_folder(tmp_path, 0) / "00000001.h5").unlink()
    with pytest.raises(StoreError, match=r"00000001\.h5 is missing: it holds 1 rows"):
        InfluenceStore(tmp_path)
    assert not (tmp_path / "influence.h5").exists()


@settings(deadline=None, max_examples=25)
@given(place=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("flip")
    run = begin(folder)
    segments = writer(folder)
    window(segments)
    put(segments, [1, 2])
    segments.seal()
    run.release()
    path = rank_folder(folder, 0) / "00000000.h5"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        InfluenceStore(folder)


def test_a_torn_line_of_the_manifest_was_never_reported(tmp_path):
    run = begin(tmp_path)
    segments = writer(tmp_path)
    for ids in ([1, 2], [3]):
        window(segments)
        put(segments, ids)
        segments.seal()
    run.release()
    manifest = rank_folder(tmp_path, 0) / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="2 rows"):
        assert InfluenceStore(tmp_path).sample_ids.tolist() == [1, 2]
    manifest.write_bytes(b"not json\n" + manifest.read_bytes())
    (tmp_path / "influence.h5").unlink()
    with pytest.raises(StoreError, match=r"manifest\.jsonl, line 1"):
        InfluenceStore(tmp_path)


@pytest.mark.parametrize("name", ["../../evil.h5", "/etc/hostname", "a/b.h5"])
def test_a_manifest_does_not_lead_elsewhere(tmp_path, name):
    run = begin(tmp_path)
    segments = writer(tmp_path)
    put(segments, [1])
    segments.seal()
    run.release()
    manifest = rank_folder(tmp_path, 0) / "manifest.jsonl"
    head, line = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(head + sealed_line(json.loads(line) | {"file": name}))
    with pytest.raises(StoreError, match="no entry of a segment"):
        InfluenceStore(tmp_path)


def test_samples_without_a_row_are_found_when_a_segment_is_sealed(tmp_path):
    run = begin(tmp_path)
    segments = writer(tmp_path)
    segments.see([7, 8, 9])
    segments.keep_out("no response token", [8])
    with pytest.raises(CaptureError, match=r"3 samples were seen but 0 rows written.*7, 9"):
        segments.seal()
    run.release()


def test_ids_of_two_kinds(tmp_path):
    run = begin(tmp_path)
    segments = writer(tmp_path)
    put(segments, [1])
    segments.see(["a"])
    block = FeatureBlock(norm=np.ones(1, "f4"), sketch=np.ones((1, WIDTH), "f4"))
    with pytest.raises(DataError, match="mix integers and text"):
        segments.append("rows", ["a"], {}, block)
    run.release()


def test_parts_of_several_processes_come_in_order(tmp_path):
    run = begin(tmp_path, n_processes=3)
    for rank in (2, 0, 1):
        segments = writer(tmp_path, rank)
        if rank == 0:
            window(segments)
        put(segments, [10 * rank + 1, 10 * rank + 2], step=rank)
        segments.seal()
    counts = finish(tmp_path, read_description(tmp_path))
    assert counts == {"seen": 6, "kept_out": {}, "written": 6}
    run.release()
    store = InfluenceStore(tmp_path)
    assert store.sample_ids.tolist() == [1, 2, 11, 12, 21, 22]
    assert store.attributes["parts"] == [2, 2, 2]
    assert store.attributes["counts"] == {"seen": 6, "kept_out": {}, "written": 6}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.one_of(st.integers(1, 5), st.sampled_from(["seal", "crash", "keep out"])), max_size=14
    )
)
def test_any_sequence_of_rows_seals_and_crashes(tmp_path_factory, actions):
    """The store holds what was sealed, in order, no more and no less: against a list in memory."""
    folder = tmp_path_factory.mktemp("any")
    run = begin(folder)
    segments = writer(folder, max_rows=6)
    sealed, opened, number = [], [], 0
    for action in actions:
        if action == "seal":
            segments.seal()
            sealed, opened = sealed + opened, []
        elif action == "crash":
            segments, opened = writer(folder, max_rows=6), []
        elif action == "keep out":
            segments.see([number])
            segments.keep_out("why not", [number])
        else:
            ids = list(range(number, number + action))
            put(segments, ids)
            window(segments)
            number, opened = number + action, opened + ids
            segments.tick()
            if len(opened) >= 6:
                sealed, opened = sealed + opened, []
    run.release()
    with pytest.warns(UserWarning, match="was killed"):
        store = InfluenceStore(folder)
    assert store.sample_ids.tolist() == sealed
    np.testing.assert_array_equal(store.sketches()[:, 0], sealed)
    shutil.rmtree(folder)


def test_codes_do_not_depend_on_where_segments_end(tmp_path):
    rng = np.random.default_rng(0)
    sketches = rng.normal(size=(700, WIDTH)).astype("f4")
    results = []
    for name, every in (("a", 700), ("b", 37)):
        run = begin(tmp_path / name)
        segments = writer(tmp_path / name)
        window(segments)
        for start in range(0, 700, every):
            ids = list(range(start, min(start + every, 700)))
            block = FeatureBlock(norm=np.ones(len(ids), "f4"), sketch=sketches[ids])
            columns = dict.fromkeys(("window", "epoch", "step", "n_tokens"), 0)
            columns |= {"loss": 0.0, "learning_rate": 0.1, "tower_version": -1}
            segments.see(ids)
            segments.append("rows", ids, columns, block)
            segments.seal()
        if results:  # one tower for both
            shutil.copytree(tmp_path / "a" / "encoder", tmp_path / "b" / "encoder")
        finish(tmp_path / name, read_description(tmp_path / name))
        run.release()
        with h5py.File(tmp_path / name / "influence.h5") as file:
            results.append(file["rows/features/gradient/code"][:].tobytes())
    assert results[0] == results[1]
