"""For every file operation, and every way in which it can go wrong: nothing is lost or doubled.

Segments with their manifest, states, and merging each alone, at every operation; whole lives
(start, windows, checkpoint, close, resume) at some of them, and at more of them in
`benchmarks/fault_injection.py`.
"""

from __future__ import annotations

import shutil
import warnings
from contextlib import suppress
from itertools import count

import numpy as np
import pytest
import sealing
import torch
from disk import KINDS, Disk, Fault, Killed
from lives import Seen, assert_equal, assert_sound, content, live, lived, opened

from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.state import read_state, write_state


def run_sealing(folder, fault):
    folder.mkdir()
    sealing.prepare(folder)
    process = sealing.Process(folder, fault)
    process.run()
    return process


@pytest.mark.parametrize("kind", KINDS)
def test_sealed_segments_are_there_whatever_happens(tmp_path, kind):
    n_operations = run_sealing(tmp_path / "whole", Fault()).disk.count
    assert sealing.sealed(tmp_path / "whole") == sealing.IDS
    for at in range(1, n_operations + 1):
        folder = tmp_path / str(at)
        process = run_sealing(folder, Fault(kind, at))
        where = f"{kind} at {at}, {process.disk.log[at - 1]}"
        assert process.disk.happened
        found = sealing.sealed(folder)
        assert found == sealing.IDS[: len(found)], where
        assert process.reported <= len(found) <= process.taken, where
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            later = sealing.writer(folder)
        sealing.put(later, [90])
        later.seal()
        assert sealing.sealed(folder) == [*found, 90], where
        listed = {path.name for s in later.manifest.segments for path in s.paths(folder)}
        there = {path.name for path in later.manifest.folder.iterdir()}
        assert there == {*listed, "manifest.jsonl"}, where


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_whole_or_not_there(tmp_path, kind):
    values, tensors = {"a": 1}, {"x": torch.arange(5.0), "y": torch.tensor(True)}
    weights = {"w": torch.ones(3)}

    def attempt(folder, fault):
        folder.mkdir()
        disk, digest = Disk(folder, fault), None
        with disk.mounted():
            with suppress(Killed, KeyboardInterrupt, StoreError, OSError):
                digest = write_state(folder / "state" / "0" / "rank", values, tensors, weights)
            if kind.startswith("power") and disk.happened:
                disk.power_cut(names_kept="names" in kind)
        return disk, digest

    whole, expected = attempt(tmp_path / "whole", Fault())
    for at in range(1, whole.count + 1):
        folder = tmp_path / str(at)
        _, digest = attempt(folder, Fault(kind, at))
        place = folder / "state" / "0" / "rank"
        assert digest in (None, expected)
        if digest is not None or (place.exists() and not kind.startswith("power")):
            found, arrays, more = read_state(place, expected)
            assert found == values
            assert torch.equal(arrays["x"], tensors["x"])
            assert torch.equal(more["w"], weights["w"])
        else:
            assert write_state(place.with_name("again"), values, tensors, weights) == expected


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run whose process died behind its checkpoint, and its store once opened."""
    folder = tmp_path_factory.mktemp("killed")
    lived(folder, Seen(), Fault("kill", 75))
    copy = shutil.copytree(folder, folder.parent / "opened")
    return folder, content(opened(copy))


@pytest.mark.parametrize(
    ("kind", "every"),
    [("kill", 1), ("full", 3), ("interrupt after", 5), ("broken for good", 7), ("short", 7)],
)
def test_merging_gives_the_whole_store_or_none(tmp_path, killed, kind, every):
    source, expected = killed
    for at in count(1, every):
        folder = shutil.copytree(source, tmp_path / str(at))
        disk = Disk(folder, Fault(kind, at))
        with disk.mounted():
            try:
                opened(folder)
            except (Killed, KeyboardInterrupt):
                pass
            except StoreError as error:
                if "written" not in str(error):
                    raise
        if not disk.happened:
            break
        if (folder / "influence.h5").exists() or at % 8 == 1:  # merged anew where there is none
            store = opened(folder)
            np.testing.assert_array_equal(store.sample_ids, expected["ids"])
            np.testing.assert_array_equal(store.codes(), expected["codes"])
            assert not list(folder.rglob(".*.part*"))
        shutil.rmtree(folder)
    assert at > 50


@pytest.fixture(scope="module", params=[False, True], ids=["encoded rows", "waiting rows"])
def whole(request, tmp_path_factory):
    """A run that nothing disturbs: its options, its store, its number of operations."""
    folder = tmp_path_factory.mktemp("whole")
    seen = Seen()
    disk = lived(folder, seen, Fault(), co_train=request.param)
    assert seen.finished, seen.errors
    return {"co_train": request.param}, content(opened(folder)), disk.count


@pytest.mark.parametrize("kind", KINDS)
def test_a_life_goes_on_to_the_same_store(tmp_path, whole, kind):
    options, expected, n_operations = whole
    for at in range(1 + KINDS.index(kind), n_operations + 1, 79):
        folder, seen = tmp_path / str(at), Seen()
        folder.mkdir()
        disk = lived(folder, seen, Fault(kind, at), **options)
        assert disk.happened, at
        try:
            if at % 2 or seen.finished:  # else it goes on without having been opened
                assert_sound(folder, seen, expected)
            if not seen.finished:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    live(folder, seen, **options)
            assert_equal(opened(folder), expected)
            assert not list(folder.glob(".influence.h5.*"))
        except (AssertionError, StoreError) as error:
            raise AssertionError(f"{kind} at {at}, {disk.log[at - 1]}: {error}") from error
