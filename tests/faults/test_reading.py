"""For every operation that opens or reads a file: an error of the disk is said, or made up for.

Never are there other values, and nothing on the disk changes. What comes first is read alike by all
that follows, so each n is tried where it is cheapest: a store by a ranking, a run that was killed
by its merge.
"""

from __future__ import annotations

import shutil
import warnings
from contextlib import suppress
from itertools import count

import numpy as np
import pytest
import small_store
from disk import Fault
from lives import (
    Seen,
    assert_equal,
    content,
    description,
    live,
    lived,
    new_recorder,
    opened,
)
from reads import FailingReads

from influcoder_lightning import InfluenceStore
from influcoder_lightning.errors import StoreError
from influcoder_lightning.processes import Processes
from influcoder_lightning.store.folder import RunFolder
from influcoder_lightning.valuation.resume import restore, rewind


def files(folder):
    """All that is there, but for locks, and what a killed process had not finished."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".part" not in path.name]
    paths = [path for path in paths if path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def results(folder, read, makes=""):
    """What ``read`` gives at each n, an error for most; the last has met no fault.

    A file that it ``makes`` may be there when it fails, and is then taken away.
    """
    before, errors = files(folder), 0
    for at in count(1):
        disk, error = FailingReads(folder, at), None
        with disk.mounted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = read()
            except StoreError as caught:
                error = caught
        if error is None:
            yield result
            if not disk.happened:
                assert errors > 0.9 * at  # hardly anything is read for nothing
                return
        else:
            errors += 1
            assert "Input/output error" in str(error), at
            if makes:
                (folder / makes).unlink(missing_ok=True)
            assert files(folder) == before, at


def test_a_store_that_is_ranked(tmp_path):
    small_store.write(tmp_path / "influence.h5", [f"id {i}" for i in range(9)])

    def read():
        store = InfluenceStore(tmp_path)
        return [store.rank("cosine").scores, store.sketches(), store.windows.to_numpy()]

    expected = read()
    for found in results(tmp_path, read):
        for value, reference in zip(found, expected, strict=True):
            np.testing.assert_array_equal(value, reference)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run whose process died behind a checkpoint: its folder, and what that points to."""
    folder, seen = tmp_path_factory.mktemp("killed"), Seen()
    lived(folder, seen, Fault("kill", 75))
    assert seen.pointer is not None
    return folder, seen.pointer


def test_a_run_that_was_killed_is_merged(tmp_path, killed):
    folder = shutil.copytree(killed[0], tmp_path / "run")
    expected = content(opened(shutil.copytree(folder, tmp_path / "whole")))

    def read():
        return content(opened(folder))

    for found in results(folder, lambda: opened(folder) and None, "influence.h5"):
        assert found is None
        for name, value in read().items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
        (folder / "influence.h5").unlink()


def resumed(folder, pointer):
    """What a process reads before it goes on from a checkpoint."""
    run = RunFolder(folder)
    try:
        rewind(run, pointer, description(co_train=False))
        restore(folder, new_recorder(folder, co_train=False), Processes(), pointer)
    finally:
        run.release()


def test_a_run_that_goes_on(tmp_path, killed):
    """It stops with the disk's error, and goes on from the same checkpoint when it reads again."""
    source, pointer = killed
    lived(tmp_path / "whole", Seen(), Fault())
    whole = content(opened(tmp_path / "whole"))
    for at in count(1, 2):
        folder = shutil.copytree(source, tmp_path / str(at))
        disk = FailingReads(folder, at)
        with disk.mounted(), suppress(StoreError):
            resumed(folder, pointer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            live(folder, Seen(pointer=pointer))
        assert_equal(opened(folder), whole)
        if not disk.happened:
            assert at > 20
            return
        shutil.rmtree(folder)
