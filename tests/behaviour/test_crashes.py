"""What is left after the ways in which runs really end: signals, full disks, users' errors."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import warnings

import h5py
import numpy as np
import pytest
import torch
from conftest import FineTuning, loader, tiny_peft, tokens, trainer

from influcoder_lightning import InfluenceCallback, InfluenceStore
from influcoder_lightning.errors import StoreError

POOL = tokens(40, seed=71)


class SignalAt(FineTuning):
    """Sends this process a signal in the middle of a training step."""

    def __init__(self, number, step=5):
        super().__init__(tiny_peft())
        self.number, self.step = number, step

    def training_step(self, batch, batch_idx):
        if batch_idx == self.step:
            os.kill(os.getpid(), self.number)
        return super().training_step(batch, batch_idx)


def fit(folder, module=None, **options):
    settings = {"sketch_dim": 64, "code_dim": 8, "segment_rows": 8, "keep_sketches": True} | options
    callback = InfluenceCallback(str(folder), **settings)
    torch.manual_seed(0)
    module = module or FineTuning(tiny_peft())
    trainer(folder.parent, [callback]).fit(module, loader(POOL))
    return module


def in_a_process(action, *args):
    """Run it in a forked process, since it will not survive; returns its exit code."""

    def quietly():
        # A shell's background processes, and so their children, ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.simplefilter("ignore")
        action(*args)

    process = multiprocessing.get_context("fork").Process(target=quietly)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def opened(folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = InfluenceStore(folder)
    return store, " ".join(str(w.message) for w in caught)


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGTERM, "SIGTERMException"), (signal.SIGINT, "KeyboardInterrupt")],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_signals_that_can_be_caught_lose_nothing(tmp_path, number, word):
    in_a_process(lambda: fit(tmp_path / "s", SignalAt(number)))
    store, warning = opened(tmp_path / "s")
    assert store.sample_ids.tolist()[:20] == list(range(20))
    assert len(store) in (20, 24)  # Lightning acts on SIGTERM when the step is over
    assert word in warning
    assert store.rank("self").sample_ids.size == len(store)


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer_features": True}, {"optimizer_features": True, "co_train": False}],
    ids=["gradients", "updates wait too", "updates encoded"],
)
def test_sigkill_costs_the_open_segment_only(tmp_path, options):
    code = in_a_process(lambda: fit(tmp_path / "s", SignalAt(signal.SIGKILL), **options))
    assert code == -signal.SIGKILL
    store, warning = opened(tmp_path / "s")
    assert store.sample_ids.tolist() == list(range(16))
    assert "at most 8 rows or 60 seconds" in warning
    if options:
        fit(tmp_path / "whole", **options)
        whole = InfluenceStore(tmp_path / "whole")
        kept, expected = (s.sketches(slice(16), feature="update") for s in (store, whole))
        np.testing.assert_array_equal(kept, expected)
        lengths = np.linalg.norm(store.codes(feature="update").astype("f4"), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-2)
        assert store.column("update_norm").all()


def limited(folder, on_error, largest=30_000):
    """A quota: no file of this process may grow beyond it (mounting a small disk needs root)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    fit(folder, segment_rows=24, sketch_dim=512, on_error=on_error)


@pytest.mark.parametrize(("on_error", "code"), [("raise", 1), ("warn", 0)])
def test_a_full_disk(tmp_path, on_error, code):
    assert in_a_process(limited, tmp_path / "s", on_error) == code
    files = {path.name for path in (tmp_path / "s" / "segments").rglob("*") if path.is_file()}
    assert files == {"run.json", "lock", "manifest.jsonl"}
    store, warning = opened(tmp_path / "s")
    assert len(store) == 0
    assert "File too large" in warning


@pytest.mark.parametrize(("on_error", "code"), [("raise", 1), ("warn", 0)])
def test_a_disk_that_is_full_when_the_store_is_merged(tmp_path, on_error, code):
    """Not played: HDF5 would end the process by SIGSEGV if it met the limit itself."""
    assert in_a_process(limited, tmp_path / "s", on_error, 60_000) == code
    assert not list((tmp_path / "s").glob("*influence.h5*"))
    assert in_a_process(open_limited, tmp_path / "s") == 0
    assert not list((tmp_path / "s").glob("*influence.h5*"))
    store, _ = opened(tmp_path / "s")
    assert store.sample_ids.tolist() == list(range(40))


def open_limited(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    with pytest.raises(StoreError, match=r"influence\.h5 could not be written .* is safe"):
        InfluenceStore(folder)


def test_a_disk_that_fills_up_later(tmp_path, monkeypatch):
    """The third segment does not fit: two are safe, and the error says so."""
    write, written = os.write, []

    def full(handle, content):
        path = os.readlink(f"/proc/self/fd/{handle}")
        if "/segments/rank_" in path and path.endswith(".part.h5"):
            written.append(path)
            if len(written) > 2:
                write(handle, content[:100])
                raise OSError(28, "No space left on device")
        return write(handle, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"No space left on device.*16 rows before it are"):
        fit(tmp_path / "s")
    monkeypatch.undo()
    assert opened(tmp_path / "s")[0].sample_ids.tolist() == list(range(16))
    assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting rows", "encoded rows"])
def test_a_full_disk_while_merging(tmp_path, monkeypatch, waiting):
    """The store is not there, but every row is: opening it later merges."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("influcoder_lightning.store.writer.StoreWriter.append", full)
        with pytest.raises(StoreError, match=r"could not be written \(.*No space left.* is safe"):
            fit(tmp_path / "s", co_train=waiting)
    assert not (tmp_path / "s" / "influence.h5").exists()
    assert opened(tmp_path / "s")[0].sample_ids.tolist() == list(range(40))


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    """A read-only disk (root may write into any read-only folder, so the disk is played)."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot be written to"):
        fit(tmp_path / "file" / "store")
    assert (tmp_path / "file").read_text() == "mine"

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(StoreError, match=r"cannot be written to \(.*Read-only file system"):
        fit(tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class Failing(FineTuning):
    def training_step(self, batch, batch_idx):
        if batch_idx == 5:
            raise RuntimeError("out of luck")
        return super().training_step(batch, batch_idx)


def test_an_error_in_the_users_step(tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path / "s", Failing(tiny_peft()))
    store, warning = opened(tmp_path / "s")
    assert store.sample_ids.tolist() == list(range(20))
    assert "RuntimeError: out of luck" in warning


TROUBLE = {
    "recorder": "influcoder_lightning.valuation.recorder.Recorder.add",
    "towers": "influcoder_lightning.encoder.cotraining.CoTraining.observe",
    "projection": "influcoder_lightning.projection.countsketch.CountSketch.add",
    "start": "influcoder_lightning.valuation.valuation.build_projector",
    "window": "influcoder_lightning.valuation.recorder.Recorder.open_window",
    "end": "influcoder_lightning.valuation.recorder.Recorder.close",
    "merge": "influcoder_lightning.valuation.valuation.finish",
}


@pytest.mark.parametrize("where", TROUBLE)
def test_the_training_goes_on_without_the_valuation(tmp_path, monkeypatch, where):
    """One loud message; the same weights and losses as without the callback."""
    torch.manual_seed(0)
    plain = FineTuning(tiny_peft())
    trainer(tmp_path).fit(plain, loader(POOL))

    def trouble(*_, **__):
        raise ValueError("something is wrong")

    monkeypatch.setattr(TROUBLE[where], trouble)
    with pytest.warns(UserWarning, match="THE VALUATION HAS STOPPED.*something is wrong") as caught:
        module = fit(tmp_path / "s", on_error="warn", query_dataloader=loader(POOL[:3]))
    assert sum("HAS STOPPED" in str(w.message) for w in caught) == 1
    assert module.losses == plain.losses
    for left, right in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not any(m._forward_hooks for m in module.modules())
    monkeypatch.undo()
    monkeypatch.setattr(TROUBLE[where], trouble)
    with pytest.raises(ValueError, match="something is wrong"):
        fit(tmp_path / "other", query_dataloader=loader(POOL[:3]))


def test_rows_before_the_trouble_are_kept(tmp_path, monkeypatch):
    from influcoder_lightning.valuation.recorder import Recorder

    add = Recorder.add

    def trouble(self, rows, *rest):
        if rows.ids[0] >= 20:
            raise ValueError("something is wrong")
        return add(self, rows, *rest)

    monkeypatch.setattr(Recorder, "add", trouble)
    with pytest.warns(UserWarning, match="Safe so far: 20 rows"):
        fit(tmp_path / "s", on_error="warn")
    store, warning = opened(tmp_path / "s")
    assert store.sample_ids.tolist() == list(range(20))
    assert "something is wrong" in warning
    assert store.attributes["counts"]["kept_out"] == {"the run ended before its row was taken": 4}


def test_another_runs_store_is_not_harmed(tmp_path):
    """A second run on the folder is refused; while the first one lives, with `overwrite` too."""
    fit(tmp_path / "s")
    before = (tmp_path / "s" / "influence.h5").read_bytes()
    with pytest.raises(StoreError, match="already holds a store"):
        fit(tmp_path / "s")
    assert (tmp_path / "s" / "influence.h5").read_bytes() == before

    class Second(FineTuning):
        def on_train_batch_end(self, *_):
            with pytest.raises(StoreError, match="being written by another process"):
                fit(tmp_path / "live", overwrite=True)

    fit(tmp_path / "live", Second(tiny_peft()))
    assert len(InfluenceStore(tmp_path / "live")) == 40
    with h5py.File(tmp_path / "s" / "influence.h5") as file:
        assert file["rows/step"].shape == (40,)
