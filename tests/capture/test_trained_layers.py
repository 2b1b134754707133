"""Layers that are frozen or come back while the run goes on: zero on both sides, and said."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from capturing import captured
from conftest import FineTuning, loader, relative_error, tiny_peft, tokens
from lightning.pytorch.callbacks import Callback

from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.errors import CaptureError


class Freezes(FineTuning):
    """Layer 0 does not train in one epoch."""

    def __init__(self, frozen):
        super().__init__(rate=0.0)
        self.frozen = frozen

    def on_train_epoch_start(self):
        for name, parameter in self.model.named_parameters():
            if "layers.0." in name and ".lora_" in name:
                parameter.requires_grad_(self.trainer.current_epoch != self.frozen)


def by_layer(model, row):
    """One-sample gradient of every LoRA weight, by name."""
    used = row["attention_mask"].bool()
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=row["input_ids"][used][None]).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, row["labels"][used][1:]).backward()
    return {n: p.grad.flatten().clone() for n, p in model.named_parameters() if ".lora_" in n}


@pytest.mark.parametrize(("frozen", "epochs"), [(1, 3), (0, 2)], ids=["on the way", "at first"])
def test_frozen_layers_are_zero_in_rows_and_queries_of_a_window_of_their_own(
    tmp_path, frozen, epochs
):
    """At first: frozen after the callback's on_train_start, as the refusal below advises."""
    rows, queries = tokens(4, seed=101), tokens(2, seed=102)
    module = Freezes(frozen)
    before = copy.deepcopy(module.model)
    options = {"query_dataloader": loader(queries, 2), "refresh_queries_every_n_steps": 100}
    store = captured(tmp_path, module, loader(rows, 4), options, max_steps=-1, max_epochs=epochs)
    windows = store.windows
    assert windows.epoch.tolist() == list(range(epochs))
    assert np.isnan(windows.drift[: frozen + 1]).all()  # the two ends hold other layers
    assert windows.drift[epochs - 1] == pytest.approx(1.0)
    early = tuple(name for name in store.layers.name if "layers.0." in name)
    assert windows.frozen_layers.tolist() == [early if w == frozen else () for w in range(epochs)]
    records = store.records()
    for table, samples in (("rows", rows), ("queries", queries)):
        for index, row in enumerate(samples):
            exact = by_layer(before, row)
            for window in range(epochs):
                if table == "rows":
                    chosen = (records.window == window) & (records.sample_id == index)
                    found = store.sketches()[np.flatnonzero(chosen)[0]]
                else:
                    found = store.query_sketches(window)[index]
                expected = torch.cat(
                    [g * (window != frozen or "layers.0." not in n) for n, g in exact.items()]
                )
                assert relative_error(found, expected) <= 1e-5


def test_weights_that_were_frozen_when_the_run_began_are_refused_when_they_train(tmp_path):
    model = tiny_peft()
    for linear in find_lora_linears(model):
        linear.module.weight.requires_grad_("layers.0." not in linear.name)

    class Thaws(FineTuning):
        def on_train_epoch_start(self):
            if self.trainer.current_epoch:
                for name, parameter in self.model.named_parameters():
                    parameter.requires_grad_(".lora_" in name)

    with pytest.raises(CaptureError, match="train now that were frozen when the run began"):
        captured(tmp_path, Thaws(model), loader(tokens(4), 4), max_steps=-1, max_epochs=2)


@pytest.mark.parametrize("place", ["training_step", "on_train_batch_start"])
def test_a_change_inside_an_optimizer_step_is_refused(tmp_path, place):
    class Switches(FineTuning):
        def switch(self, batch_idx):
            if batch_idx == 1:
                for name, parameter in self.model.named_parameters():
                    if "layers.0." in name:
                        parameter.requires_grad_(False)

        def training_step(self, batch, batch_idx):
            if place == "training_step":
                self.switch(batch_idx)
            return super().training_step(batch, batch_idx)

    class Early(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if place == "on_train_batch_start":
                module.switch(batch_idx)

    with pytest.raises(CaptureError, match="inside an optimizer step"):
        captured(
            tmp_path,
            Switches(),
            loader(tokens(4), 2),
            callbacks=[Early()],
            accumulate_grad_batches=2,
        )
