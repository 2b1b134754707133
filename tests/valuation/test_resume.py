"""Runs that stop and go on give the store of a run that never stopped."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import FineTuning, Samples, loader, tiny_peft, tokens, trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torchdata.stateful_dataloader import StatefulDataLoader

from influcoder_lightning import (
    InfluenceCallback,
    InfluenceStore,
    collate_with_sample_ids,
    with_sample_ids,
)
from influcoder_lightning.encoder import cotraining
from influcoder_lightning.errors import StoreError

POOL, QUERIES = tokens(24, seed=41), tokens(3, seed=42)


class Killed(Exception):
    pass


class StopAt(Callback):
    """Ends the run as abruptly as one process can: the callback under test gets no hook."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise Killed


def stateful(pool=POOL):
    """A loader that goes on where it was.

    Not shuffled: a resumed Lightning run opens the loader before it tells the sampler the epoch, so
    samplers that depend on `set_epoch` repeat the first epoch's order.
    """
    return StatefulDataLoader(
        with_sample_ids(Samples(pool)), batch_size=4, collate_fn=collate_with_sample_ids()
    )


def fit(
    folder,
    stop=None,
    ckpt=None,
    epochs=2,
    killed=False,
    save_every=4,
    pool=POOL,
    model=None,
    **options,
):
    settings = {
        "query_dataloader": loader(QUERIES, 2),
        "sketch_dim": 64,
        "code_dim": 8,
        "keep_sketches": True,
    } | options
    callback = InfluenceCallback(str(folder / "store"), **settings)
    when = {"every_n_train_steps": save_every} if save_every else {"every_n_epochs": 1}
    saver = ModelCheckpoint(folder / "ckpt", save_top_k=-1, **when)
    callbacks = [callback, saver] + ([] if stop is None else [StopAt(stop)])
    run = trainer(folder, callbacks, max_epochs=epochs, enable_checkpointing=True)
    torch.manual_seed(0)
    module = FineTuning(tiny_peft(**(model or {})))
    if killed:  # nothing of the callback runs when a process is killed
        callback.on_exception = lambda *_: callback._valuation._run.release()
    try:
        run.fit(module, stateful(pool), ckpt_path=ckpt)
    except Killed:
        return None
    return InfluenceStore(folder / "store")


def last(folder):
    paths = (folder / "ckpt").glob("*.ckpt")
    return str(max(paths, key=lambda p: int(p.stem.split("step=")[1])))


def assert_same(store, reference):
    assert store.attributes["complete"]
    assert store.sample_ids.tolist() == reference.sample_ids.tolist()
    left, right = store.records(), reference.records()
    np.testing.assert_array_equal(left.to_numpy(), right.to_numpy())
    np.testing.assert_array_equal(store.sketches(), reference.sketches())
    np.testing.assert_array_equal(store.codes(), reference.codes())
    assert store.column_names() == reference.column_names()
    if "update_code" in store.column_names():
        for part in ("update_code", "update_sketch"):
            np.testing.assert_array_equal(store.column(part), reference.column(part))
    if len(reference.query_ids):
        end = reference.query_codes(end=True)
        np.testing.assert_array_equal(store.query_codes(end=True), end)
    np.testing.assert_array_equal(store.windows.to_numpy(), reference.windows.to_numpy())
    assert store.attributes["counts"] == reference.attributes["counts"]
    assert store.query_texts() == reference.query_texts()


MODES = {
    "waiting": {},
    "projected": {"co_train": False},
    "windows": {"refresh_queries_every_n_steps": 3},
    "early versions": {"refresh_queries_every_n_steps": 3, "early": True},
    "small segments": {"segment_rows": 3},
    "no queries": {"query_dataloader": None},
    "updates": {"optimizer_features": True},
    "updates and versions": {
        "optimizer_features": True,
        "refresh_queries_every_n_steps": 3,
        "early": True,
    },
}


def early(monkeypatch):
    """A first tower version after eight rows, and a new one in every window."""
    monkeypatch.setattr(cotraining, "FIT_ROWS", 8)
    monkeypatch.setattr(cotraining, "RELEARN_GAIN", -1.0)
    monkeypatch.setattr("influcoder_lightning.valuation.valuation.BUFFER_BYTES", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of a run that never stopped, made once for each mode and way to save."""
    made = {}

    def store(*key, **options):
        if key not in made:
            made[key] = fit(tmp_path_factory.mktemp("whole"), **options)
        return made[key]

    return store


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("stop", "killed"),
    [(5, True), (7, True), (9, False)],
    ids=["5-killed", "7-killed", "9-exception"],
)
def test_a_resumed_run_equals_one_that_never_stopped(
    tmp_path, monkeypatch, whole, mode, stop, killed
):
    options = dict(MODES[mode])
    if options.pop("early", False):
        early(monkeypatch)
    if stop == 7:
        options["save_every"] = None  # between the epochs
    reference = whole(mode, stop == 7, **options)
    assert len(reference) == 48
    assert fit(tmp_path / "cut", stop=stop, killed=killed, **options) is None
    if stop == 7:  # opening a broken store in between must not harm it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(InfluenceStore(tmp_path / "cut" / "store")) >= 24
    assert_same(fit(tmp_path / "cut", ckpt=last(tmp_path / "cut"), **options), reference)


def test_a_finished_run_can_be_extended(tmp_path):
    """The store was complete; training goes on from its last checkpoint, or from an older one."""
    for mode, options in {"waiting": {}, "projected": {"co_train": False}}.items():
        folder = tmp_path / mode
        reference = fit(folder / "whole", epochs=2, save_every=None, **options)
        assert len(fit(folder / "cut", epochs=1, save_every=None, **options)) == 24
        store = fit(folder / "cut", epochs=2, save_every=None, ckpt=last(folder / "cut"), **options)
        assert_same(store, reference)


@pytest.mark.parametrize("mode", ["projected", "early versions", "updates and versions"])
def test_an_older_checkpoint_of_a_finished_run(tmp_path, monkeypatch, mode):
    """Rows come from the merged store, cut where the checkpoint was; again and again."""

    def newest(step):
        paths = (tmp_path / "ckpt").glob(f"*step={step}*.ckpt")
        return str(max(paths, key=lambda path: path.stat().st_mtime))

    options = MODES[mode] | {"keep_states": 99}
    if options.pop("early", False):
        early(monkeypatch)
    reference = fit(tmp_path, **options)
    first = newest(4)
    assert_same(fit(tmp_path, ckpt=first, **options), reference)
    assert fit(tmp_path, ckpt=first, stop=7, killed=True, **options) is None
    assert_same(fit(tmp_path, ckpt=first, **options), reference)
    # This checkpoint was saved while the first rows came from a merged store.
    assert_same(fit(tmp_path, ckpt=newest(8), **options), reference)
    assert fit(tmp_path, ckpt=newest(8), stop=11, killed=True, **options) is None
    assert_same(fit(tmp_path, ckpt=newest(8), **options), reference)


def test_the_text_tower_goes_on(tmp_path, sentence_encoder):
    """Encoder, its optimizer and its random stream continue: the same weights at the end."""
    pool = [dict(row, prompt=f"w{i} w2", response=f"w{i % 5} w3") for i, row in enumerate(POOL)]
    options = {"text_encoder": sentence_encoder, "co_train_every_n_steps": 1, "pool": pool}
    fit(tmp_path / "whole", **options)
    assert fit(tmp_path / "cut", stop=9, killed=True, **options) is None
    fit(tmp_path / "cut", ckpt=last(tmp_path / "cut"), **options)
    rows = [{"prompt": "w1 w2", "response": "w3"}, {"prompt": "w9", "response": "w4 w4"}]
    codes = [
        InfluenceStore(tmp_path / name / "store").text_tower().encode(rows)
        for name in ("whole", "cut")
    ]
    np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sketch_dim": 128}, "sketch_dim: 64 -> 128"),
        ({"seed": 5}, "seed: 0 -> 5"),
        ({"optimizer_features": True}, "optimizer_features: False -> True"),
        ({"code_dim": 16}, "code_dim: 8 -> 16"),
        ({"projector": "identity"}, "projector: 'countsketch' -> 'identity'"),
        ({"every_n_train_steps": 2}, "every_n_train_steps: 1 -> 2"),
        ({"model": {"r": 2}}, "lora.r: 4 -> 2"),
    ],
)
def test_another_configuration_is_refused(tmp_path, change, word):
    assert fit(tmp_path, stop=7, killed=True, save_every=2) is None
    with pytest.raises((StoreError, RuntimeError), match=word if "model" not in change else None):
        fit(tmp_path, ckpt=last(tmp_path), **change)


def test_a_run_of_a_release_that_knew_no_updates(tmp_path):
    reference = fit(tmp_path / "whole")
    assert fit(tmp_path / "cut", stop=5, killed=True) is None
    path = tmp_path / "cut" / "store" / "segments" / "run.json"
    description = json.loads(path.read_text())
    del description["checksum"]
    del description["store"]["updates"]
    del description["store"]["attributes"]["config"]["optimizer_features"]
    path.write_text(json.dumps(description))
    assert_same(fit(tmp_path / "cut", ckpt=last(tmp_path / "cut")), reference)


def test_a_state_that_is_gone_or_damaged(tmp_path):
    assert fit(tmp_path, stop=7, killed=True) is None
    states = tmp_path / "store" / "state"
    file = next(states.glob("*/rank_00000/values.json"))
    file.write_bytes(file.read_bytes().replace(b"n_rows", b"n_cows"))
    with pytest.raises(StoreError, match="damaged"):
        fit(tmp_path, ckpt=last(tmp_path))
    shutil.rmtree(states)
    with pytest.raises(StoreError, match="keep_states"):
        fit(tmp_path, ckpt=last(tmp_path))


def test_a_checkpoint_without_a_valuation(tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.fit(FineTuning(tiny_peft()), stateful())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.warns(UserWarning, match="holds no valuation"):
        store = fit(tmp_path, ckpt=str(tmp_path / "plain.ckpt"))
    assert store.records().step.min() == 2


def test_only_the_newest_states_stay(tmp_path):
    fit(tmp_path, save_every=1, keep_states=2)
    assert len(list((tmp_path / "store" / "state").iterdir())) == 2
    oldest = str(next((tmp_path / "ckpt").glob("*step=1.ckpt")))
    with pytest.raises(StoreError, match="newest states stay"):
        fit(tmp_path, ckpt=oldest)


def test_a_run_without_checkpoints_leaves_only_the_store(tmp_path):
    callback = InfluenceCallback(str(tmp_path / "store"), sketch_dim=64, code_dim=8)
    trainer(tmp_path, [callback]).fit(FineTuning(), stateful())
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == [
        "adapters",
        "encoder",
        "influence.h5",
    ]


def test_checkpoints_load_with_weights_only(tmp_path):
    fit(tmp_path)
    checkpoint = torch.load(last(tmp_path), weights_only=True)
    assert checkpoint["callbacks"]["InfluenceCallback"]["state"].isdigit()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"state": "../../elsewhere"}, "does not hold what a valuation needs"),
        ({"state": 7}, "does not hold what a valuation needs"),
        ({"sha256": "x"}, "does not hold what a valuation needs"),
        ({"sha256": ["x"]}, "damaged"),
        ({"state": "99999999"}, "keep_states"),
    ],
)
def test_a_checkpoint_from_anywhere(tmp_path, change, word):
    """Its pointer is not believed: nothing is written or removed where it leads."""
    assert fit(tmp_path, stop=7, killed=True) is None
    checkpoint = torch.load(last(tmp_path), weights_only=True)
    checkpoint["callbacks"]["InfluenceCallback"].update(change)
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(StoreError, match=word):
        fit(tmp_path, ckpt=str(tmp_path / "changed.ckpt"))
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_checkpoint_that_leads_to_another_folder(tmp_path):
    assert fit(tmp_path / "a", stop=7, killed=True) is None
    checkpoint = torch.load(last(tmp_path / "a"), weights_only=True)
    victim = tmp_path / "victim"
    victim.mkdir()
    checkpoint["callbacks"]["InfluenceCallback"]["folder"] = str(victim)
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    callback = InfluenceCallback(sketch_dim=64, code_dim=8, query_dataloader=loader(QUERIES, 2))
    run = trainer(tmp_path, [callback], max_epochs=2)
    with pytest.raises(StoreError, match="holds no run that could go on"):
        run.fit(FineTuning(tiny_peft()), stateful(), ckpt_path=str(tmp_path / "changed.ckpt"))
    assert list(victim.iterdir()) == []
