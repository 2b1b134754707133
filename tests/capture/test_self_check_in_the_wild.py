"""The self-check beside what else a training may use: it judges there, too."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from capturing import assert_rows_equal_oracle, captured
from conftest import LENGTH, FineTuning, loader, tiny_peft, tokens
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from test_packing import packed
from torch.utils.data import DataLoader

from influcoder_lightning.errors import CaptureError

TWO = "2 samples alone give the captured gradients"


def said(caplog):
    return [r.getMessage() for r in caplog.records if "self-check: " in r.getMessage()]


@pytest.fixture(autouse=True)
def _heard(caplog):
    caplog.set_level("INFO")


class Turned(FineTuning):
    """Turns the batch round inside the step, so that no row is its sample's."""

    def training_step(self, batch, batch_idx):
        inputs = {n: batch[n].flip(0) for n in ("input_ids", "attention_mask", "labels")}
        return self.model(**inputs).loss


def in_fp16(init_scale):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=init_scale))


class Overflowing(FineTuning):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1e38 if batch_idx == 0 else 1)


def test_under_a_grad_scaler_the_first_step_that_counts_is_judged(tmp_path, caplog):
    """A step whose gradients overflow is skipped; there is nothing to compare in it."""
    batches = loader(tokens(8, seed=3), 4)
    with pytest.warns(UserWarning, match="4 kept out: in a step that the GradScaler skipped"):
        store = captured(tmp_path, Overflowing(), batches, max_steps=-1, plugins=[in_fp16(1024.0)])
    assert store.sample_ids.tolist() == [4, 5, 6, 7]
    (line,) = said(caplog)
    assert TWO in line


def test_under_a_grad_scaler_another_order_is_noticed(tmp_path):
    with pytest.raises(CaptureError, match="self-check"):
        captured(tmp_path, Turned(), loader(tokens(5, seed=9), 5), plugins=[in_fp16(1024.0)])


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_gradient_checkpointing(tmp_path, caplog, reentrant):
    module, rows = FineTuning(), tokens(4, seed=3)
    before = copy.deepcopy(module.model)
    module.model.enable_input_require_grads()
    module.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert_rows_equal_oracle(captured(tmp_path, module, loader(rows, 4)), before, rows)
    (line,) = said(caplog)
    assert TWO in line


@pytest.mark.parametrize("kind", [FineTuning, Turned])
def test_a_compiled_model_sees_no_other_shape_than_the_batchs(tmp_path, caplog, kind):
    module, shapes = kind(tiny_peft(target_modules=["v_proj"])), set()

    def backend(graph, inputs):
        shapes.update(
            tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 3
        )
        return graph.forward

    torch.compiler.reset()
    module.model.base_model.model.model.layers[1].mlp.compile(backend=backend)
    options = {"allow_compiled": True}
    if kind is Turned:
        with pytest.raises(CaptureError, match="rows in another order"):
            captured(tmp_path, module, loader(tokens(4, seed=3), 4), options)
    else:
        captured(tmp_path, module, loader(tokens(4, seed=3), 4), options)
        assert TWO in said(caplog)[0]
    torch.compiler.reset()
    assert shapes == {(4, LENGTH, 16)}


class Packed(FineTuning):
    def training_step(self, batch, batch_idx):
        inputs = {name: batch[name] for name in ("input_ids", "position_ids", "labels")}
        return self.model(**inputs, use_cache=False).loss


class OtherLabels(Packed):
    def training_step(self, batch, batch_idx):
        labels = torch.where(batch["labels"] < 0, -100, batch["labels"].flip(1).clamp(min=1))
        return super().training_step({**batch, "labels": labels}, batch_idx)


def test_samples_of_a_packed_row_are_judged_each_by_itself(tmp_path, caplog):
    captured(tmp_path, Packed(), DataLoader([packed()], batch_size=None))
    assert TWO in said(caplog)[0]
    with pytest.raises(CaptureError, match="self-check"):
        captured(tmp_path / "other", OtherLabels(), DataLoader([packed()], batch_size=None))


def test_batches_without_a_usable_sample_are_passed_over(tmp_path, caplog):
    """Samples that the loss leaves out have no gradient of their own to compare with."""

    def second_half(batch):
        n = (batch["labels"][:, 1:] != -100).sum(1)
        return torch.where(batch["sample_id"] < 4, 0.0, n / n.sum())

    class Halved(FineTuning):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (batch["sample_id"].min() >= 4)

    batches = loader(tokens(8, seed=3), 4)
    captured(tmp_path, Halved(), batches, {"loss_reduction": second_half}, max_steps=2)
    (line,) = said(caplog)
    assert TWO in line


class OnTwo(FineTuning):
    """Says what passes of one sample each process ran; process ``turns`` turns its batches."""

    def __init__(self, folder, turns=None):
        super().__init__()
        self.folder, self.turns, self.alone = folder, turns, 0
        self.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.alone += not module.training

    def training_step(self, batch, batch_idx):
        kind = Turned if self.global_rank == self.turns else FineTuning
        return kind.training_step(self, batch, batch_idx)

    def on_train_end(self):
        found = {"passes": self.alone, "steps": self.trainer.global_step}
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(found))


def on_two_processes(folder, module, rows, options=None):
    """The store, and what both processes say."""
    strategy = DDPStrategy(process_group_backend="gloo", start_method="fork")
    batches = loader(rows, 2)
    store = captured(folder, module, batches, options, max_steps=2, devices=2, strategy=strategy)
    return store, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_where_one_process_finds_a_wrong_row_all_give_up(tmp_path):
    module = OnTwo(tmp_path, turns=1)
    with pytest.warns(UserWarning, match=r"is incomplete: .*self-check"):
        store, said = on_two_processes(tmp_path, module, tokens(8), {"on_error": "warn"})
    assert set(store.records().step) <= {0}
    assert said[0] == said[1] == {"passes": 3, "steps": 2}  # two samples, and both together


def test_a_process_without_a_usable_sample_runs_the_same_passes(tmp_path):
    """The only sample is the first process's; the second one has its repetition."""
    store, said = on_two_processes(tmp_path, OnTwo(tmp_path), tokens(1))
    assert store.sample_ids.tolist() == [0]
    assert said[0] == said[1] == {"passes": 3, "steps": 1}
