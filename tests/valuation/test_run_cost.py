"""What the store keeps of the time of the run that made it."""

from __future__ import annotations

import pytest
import torch
from conftest import FineTuning, Samples, loader, tiny_peft, tokens, trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from influcoder_lightning import (
    InfluenceCallback,
    InfluenceStore,
    collate_with_sample_ids,
    extract_features,
    with_sample_ids,
)
from influcoder_lightning.valuation.valuation import Options, Valuation

POOL, QUERIES = tokens(12, seed=51), tokens(3, seed=52)
OPTIONS = {"query_dataloader": loader(QUERIES, 2), "sketch_dim": 64, "code_dim": 8}


class Interrupted(Exception):
    pass


class StopAt(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            raise Interrupted


def fit(folder, stop=False, ckpt=None):
    callback = InfluenceCallback(str(folder / "store"), **OPTIONS)
    saver = ModelCheckpoint(folder / "ckpt", every_n_train_steps=2, save_top_k=-1)
    run = trainer(
        folder,
        [callback, saver, *([StopAt()] if stop else [])],
        max_epochs=1,
        enable_checkpointing=True,
    )
    torch.manual_seed(0)
    pool = torch.utils.data.DataLoader(
        with_sample_ids(Samples(POOL)), batch_size=4, collate_fn=collate_with_sample_ids()
    )
    try:
        run.fit(FineTuning(tiny_peft()), pool, ckpt_path=ckpt)
    except Interrupted:
        return InfluenceStore(folder / "store")
    return InfluenceStore(folder / "store")


def test_a_training_run_says_what_it_cost(tmp_path):
    cost = fit(tmp_path).attributes["cost"]
    assert cost["processes"] == 1
    assert 0 < cost["valuation_seconds"] < cost["run_seconds"]
    assert cost["closing_seconds"] > 0


def test_a_resumed_run_adds_up_what_came_before_its_checkpoint(tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="incomplete"):
        first = fit(tmp_path, stop=True).attributes["cost"]
    assert 0 < first["valuation_seconds"] < first["run_seconds"]
    clocks = []
    inner = Valuation._clock

    def recorded(self):
        clocks.append((dict(self._earlier), inner(self)))
        return clocks[-1][1]

    monkeypatch.setattr(Valuation, "_clock", recorded)
    cost = fit(tmp_path, ckpt=str(next((tmp_path / "ckpt").glob("*.ckpt")))).attributes["cost"]
    before, end = clocks[-1]
    assert before["run_seconds"] > 0
    assert before["valuation_seconds"] > 0
    for name in ("run_seconds", "valuation_seconds"):
        assert cost[name] == end[name] > before[name]


def test_a_checkpoint_that_does_not_know_leaves_the_cost_unknown(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Valuation, "_clock", lambda self: None)  # as of an earlier release
        with pytest.warns(UserWarning, match="incomplete"):
            assert "cost" not in fit(tmp_path, stop=True).attributes
    store = fit(tmp_path, ckpt=str(next((tmp_path / "ckpt").glob("*.ckpt"))))
    assert store.attributes["complete"]
    assert "cost" not in store.attributes


def test_a_run_without_training_says_it_too(tmp_path):
    samples = loader(POOL, 4)
    store = extract_features(tiny_peft(), samples, tmp_path, show_progress=False, **OPTIONS)
    cost = store.attributes["cost"]
    assert 0 < cost["valuation_seconds"] <= cost["run_seconds"]


def test_a_second_counts_once(tmp_path, monkeypatch):
    valuation = Valuation(tiny_peft(), tmp_path, Options(sketch_dim=64, code_dim=8), {})
    now = [0.0]
    monkeypatch.setattr("influcoder_lightning.valuation.valuation.perf_counter", lambda: now[0])
    with valuation.timed():
        now[0] += 3
        with valuation.timed():
            now[0] += 2
            valuation.capture.seconds += 1.5  # a hook that ran inside the block
    assert valuation.seconds == 5.0
    valuation.abort(0, "done")
