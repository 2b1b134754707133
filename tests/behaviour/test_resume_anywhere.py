"""Wherever a run is interrupted, and however often, it ends as one that never was."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from conftest import FineTuning, Samples, loader, tiny_peft, tokens, trainer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from influcoder_lightning import (
    EpochLoader,
    InfluenceCallback,
    InfluenceStore,
    collate_with_sample_ids,
    with_sample_ids,
)
from influcoder_lightning.errors import StoreError

POOL = tokens(10, seed=51)  # five batches of two, of which the last step may be short
BATCHES, EPOCHS = 5, 3


class Interrupted(Exception):
    pass


@dataclass(frozen=True)
class Plan:
    """A training, apart from its interruptions."""

    accumulate: int = 1
    limit: str = "max_epochs"
    validate: float | None = None
    save: str = "1"
    kind: str = "epoch loader"

    @property
    def steps(self) -> int:
        return EPOCHS * -(-BATCHES // self.accumulate)


class Validated(FineTuning):
    def validation_step(self, batch, batch_idx):
        return None

    def val_dataloader(self):
        return loader(POOL[:4], 2)


class Interrupt(Callback):
    """Raises in one hook, when so many batches have been trained on in this life."""

    def __init__(self, hook, batches):
        self.batches, self.n = batches, 0
        setattr(self, hook, self._raise)

    def on_train_batch_start(self, *_):
        self.n += 1

    def _raise(self, *_):
        if self.n >= self.batches:
            raise Interrupted


def pool_loader(kind):
    data, collate = with_sample_ids(Samples(POOL)), collate_with_sample_ids()
    if kind == "epoch loader":
        return EpochLoader(data, 2, collate, seed=7)
    if kind == "plain":
        return DataLoader(data, 2, collate_fn=collate)
    generator = torch.Generator().manual_seed(3) if kind == "shuffled" else None
    shuffle = kind == "shuffled"
    return StatefulDataLoader(data, 2, shuffle=shuffle, generator=generator, collate_fn=collate)


def saver(folder, save):
    common = {"dirpath": folder / "ckpt", "save_last": True, "save_top_k": -1}
    if save == "epoch":
        return ModelCheckpoint(**common, every_n_epochs=1)
    if save == "exception":
        return ModelCheckpoint(**common, every_n_train_steps=3, save_on_exception=True)
    return ModelCheckpoint(**common, every_n_train_steps=int(save))


def live(folder, plan, interrupt=None, ckpt=None, killed=False, first=False):
    """One life of the run; returns module and callback, and whether it came to its end."""
    settings_ = {"sketch_dim": 32, "code_dim": 4, "co_train": False, "keep_sketches": True}
    callback = InfluenceCallback(str(folder / "store"), overwrite=ckpt is None, **settings_)
    callbacks = [callback, saver(folder, plan.save)]
    if interrupt is not None:
        callbacks.insert(0 if first else 2, interrupt)
    limit = {"max_epochs": EPOCHS} if plan.limit == "max_epochs" else {"max_steps": plan.steps}
    more = {"enable_checkpointing": True, "accumulate_grad_batches": plan.accumulate}
    more |= {"num_sanity_val_steps": 0, "val_check_interval": plan.validate}
    run = trainer(folder, callbacks, **{"max_epochs": -1} | limit | more)
    module = (FineTuning if plan.validate is None else Validated)(
        tiny_peft(target_modules=["q_proj"])
    )
    if killed:
        callback.on_exception = lambda *_: callback._valuation and callback._valuation._leave()
    try:
        run.fit(module, pool_loader(plan.kind), ckpt_path=ckpt)
    except Interrupted:
        return module, False
    return module, True


def newest(folder):
    path = folder / "ckpt"
    found = sorted(path.glob("*.ckpt"), key=lambda p: p.stat().st_mtime_ns) if path.exists() else []
    return str(found[-1]) if found else None


def outcome(folder, module):
    store = InfluenceStore(folder / "store")
    assert store.attributes["complete"]
    weights = [p.detach().clone() for p in module.parameters() if p.requires_grad]
    rows = store.records()
    names = ["sample_id", "epoch", "step", "loss", "window"]
    return rows[names], store.sketches(), weights, store.attributes["counts"], store.windows


@cache
def uninterrupted(plan):
    with TemporaryDirectory() as folder:
        module, _ = live(Path(folder), plan)
        return outcome(Path(folder), module)


def assert_same(folder, module, plan):
    rows, sketches, weights, counts, windows = outcome(folder, module)
    expected = uninterrupted(plan)
    np.testing.assert_array_equal(rows.to_numpy(), expected[0].to_numpy())
    np.testing.assert_array_equal(sketches, expected[1])
    assert all(map(torch.equal, weights, expected[2]))
    assert counts == expected[3]
    np.testing.assert_array_equal(windows.to_numpy(), expected[4].to_numpy())


def interrupted(folder, plan, stops, killed=False):
    """Lives until one comes to its end, and one more, which finds nothing to do."""
    warnings.simplefilter("ignore")
    for hook, batches in stops:
        live(folder, plan, Interrupt(hook, batches), newest(folder), killed)
    module, _ = live(folder, plan, None, newest(folder))
    assert_same(folder, module, plan)
    module, _ = live(folder, plan, None, newest(folder))
    assert_same(folder, module, plan)


HOOKS = (
    "on_train_batch_end",
    "on_before_backward",
    "on_before_zero_grad",
    "on_train_epoch_end",
    "on_train_epoch_start",
    "on_train_end",
)
stops = st.tuples(st.sampled_from(HOOKS), st.integers(1, BATCHES + 2))


@given(
    plan=st.builds(
        Plan,
        accumulate=st.sampled_from([1, 2]),
        limit=st.sampled_from(["max_epochs", "max_steps"]),
        validate=st.sampled_from([None, 1.0, 0.4]),
        save=st.sampled_from(["1", "2", "epoch", "exception"]),
    ).filter(lambda plan: plan.accumulate == 1 or plan.save != "exception"),
    stops=st.lists(stops, min_size=1, max_size=3),
    killed=st.booleans(),
)
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a case takes seconds to shrink
)
def test_interrupted_anywhere_and_often(plan, stops, killed):
    with TemporaryDirectory() as folder:
        interrupted(Path(folder), plan, stops, killed and plan.save != "exception")


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
@pytest.mark.parametrize("kind", ["epoch loader", "stateful"])
def test_between_epochs_and_again(tmp_path, kind, limit):
    """Lightning by itself trains a further epoch here, or loses one."""
    plan = Plan(kind=kind, limit=limit)
    stops = [("on_train_epoch_end", BATCHES), ("on_train_epoch_end", BATCHES), ("on_train_end", 1)]
    interrupted(tmp_path, plan, stops, killed=True)


def test_another_callback_saves_before_ours_has_its_turn(tmp_path):
    """Its checkpoint has the rows of the batch that it was saved after."""
    plan = Plan(save="99")

    class Saver(Interrupt):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "ckpt" / "early.ckpt")

    live(tmp_path, plan, Saver("on_train_epoch_end", 1), killed=True, first=True)
    module, _ = live(tmp_path, plan, None, newest(tmp_path))
    assert_same(tmp_path, module, plan)


def test_a_loader_that_cannot_go_on_is_told_of(tmp_path):
    plan = Plan(kind="plain")
    live(tmp_path, plan, Interrupt("on_train_batch_end", 3), killed=True)
    with pytest.warns(UserWarning, match="begins at its first batch again"):
        live(tmp_path, plan, None, newest(tmp_path))
    assert InfluenceStore(tmp_path / "store").records().step.nunique() == plan.steps


def test_an_order_that_does_not_come_back_is_told_of(tmp_path):
    plan = Plan(kind="shuffled", save="epoch")
    live(tmp_path, plan, Interrupt("on_train_batch_end", BATCHES + 1), killed=True)
    with pytest.warns(UserWarning, match="in another order"):
        live(tmp_path, plan, None, newest(tmp_path))
    rows = InfluenceStore(tmp_path / "store").records()
    assert all(sorted(part.sample_id) == list(range(10)) for _, part in rows.groupby("epoch"))


def test_a_loader_behind_a_batch_that_was_not_trained_is_refused(tmp_path):
    plan = Plan(kind="stateful", save="exception")
    live(tmp_path, plan, Interrupt("on_before_backward", 2))
    with pytest.raises(StoreError, match=r"has given out 2 batches .* but 1 were trained"):
        live(tmp_path, plan, None, newest(tmp_path))
