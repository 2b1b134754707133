"""Optimizer updates of single samples, against real optimizers stepping on real gradients.

The oracle shares no code with what it checks: the gradient of one sample comes from plain autograd,
and its update from ``optimizer.step()`` on a copy, as the change of the weights per learning rate.
"""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from capturing import captured
from conftest import FineTuning, loader, relative_error, tiny_peft, tokens, trainer
from lightning.pytorch.callbacks import Callback
from test_callback_gradients import OtherLoss
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from influcoder_lightning import InfluenceCallback, InfluenceStore, extract_features
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.capture.updates import update_rules
from influcoder_lightning.errors import CaptureError, ConfigError, StoreError

ADAMS = {
    "AdamW": (torch.optim.AdamW, {}),
    "Adam": (torch.optim.Adam, {"betas": (0.6, 0.95), "eps": 1e-4}),
    "amsgrad": (torch.optim.AdamW, {"amsgrad": True, "betas": (0.9, 0.5)}),
    "maximize": (torch.optim.Adam, {"maximize": True}),
    "fused": (torch.optim.AdamW, {"fused": True}),
    "foreach": (torch.optim.AdamW, {"foreach": True}),
}
SGDS = {
    "SGD": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "ascent": (torch.optim.SGD, {"momentum": 0.8, "maximize": True}),
}
OPTIMIZERS = ADAMS | SGDS


class Layer:
    """What `update_rules` needs of a LoRA linear."""

    def __init__(self, name, weight):
        self.name, self.weight = name, weight


def change(optimizer, weight, gradient):
    """(weight before - after) of one step on ``gradient`` at learning rate 1, on a copy."""
    optimizer, weight = copy.deepcopy((optimizer, weight))
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 1.0, 0.0
        for parameter in group["params"]:
            parameter.grad = None
    with torch.no_grad():
        weight.zero_()
    weight.grad = gradient.clone()
    optimizer.step()
    return -weight.detach()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 1, 20])
@pytest.mark.parametrize("turned", [False, True])
def test_a_direction_is_what_the_optimizer_does(name, steps, turned):
    kind, settings = OPTIMIZERS[name]
    generator = torch.Generator().manual_seed(steps)
    weights = [torch.nn.Parameter(torch.randn(3, 5, generator=generator)) for _ in range(2)]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.3}]
    if "betas" in settings:
        groups[1] |= {"betas": (0.7, 0.99), "eps": 1e-2}
    optimizer = kind(groups, lr=0.1, weight_decay=0.1, **settings)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(3, 5, generator=generator)
        optimizer.step()
    before, entries = copy.deepcopy(optimizer.state_dict()), len(optimizer.state)
    rules = update_rules(optimizer, [Layer(str(i), weight) for i, weight in enumerate(weights)])
    for i, weight in enumerate(weights):
        rows = torch.randn(4, 3, 5, generator=generator)
        rows[1] *= 1e-6
        expected = torch.stack([change(optimizer, weight, row) for row in rows])
        given = rows.mT.contiguous().mT if turned else rows.clone()
        found = rules[str(i)].direction(given)
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)
    after = optimizer.state_dict()
    assert len(optimizer.state) == entries, "reading must not make entries"
    assert str(before) == str(after)


def test_before_the_first_step_adam_goes_by_the_sign():
    weight = torch.nn.Parameter(torch.zeros(1, 3))
    rule = update_rules(torch.optim.AdamW([weight]), [Layer("w", weight)])["w"]
    found = rule.direction(torch.tensor([[[0.2, -3.0, 0.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, -1.0, 0.0]]]))


def test_an_optimizer_that_nobody_knows_is_refused_by_name():
    class Mine(torch.optim.AdamW):
        pass

    weight = torch.nn.Parameter(torch.zeros(1, 3))
    for kind, word in ((torch.optim.Adamax, "adamax.Adamax"), (Mine, "Mine")):
        with pytest.raises(CaptureError, match=f"{word} updates a weight.*torch.optim.AdamW"):
            update_rules(kind([weight]), [Layer("w", weight)])
    other = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(CaptureError, match="not in the optimizer"):
        update_rules(torch.optim.SGD([other]), [Layer("w", weight)])


def test_weights_in_pieces_are_refused():
    """As FSDP2 has them; one process is enough to make such a weight."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = torch.nn.Parameter(distribute_tensor(torch.zeros(2, 3), mesh))
        with pytest.raises(CaptureError, match=r"`w` is sharded.*strategy='ddp'"):
            update_rules(torch.optim.AdamW([weight]), [Layer("w", weight)])
    finally:
        torch.distributed.destroy_process_group()


class Tuned(FineTuning):
    """Trains with any optimizer, and a learning rate that changes."""

    def __init__(self, kind, settings, **options):
        super().__init__(**options)
        self.kind, self.settings = kind, settings

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.kind(trained, lr=self.rate, **self.settings)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}


class Snapshots(Callback):
    """Model and optimizer as they are before each step."""

    def __init__(self):
        self.taken = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step not in self.taken:
            model = {k: v.clone() for k, v in pl_module.model.state_dict().items()}
            state = copy.deepcopy(trainer.optimizers[0].state_dict())
            self.taken[trainer.global_step] = (model, state)


@functools.cache
def blank():
    """A model whose weights are loaded before each use."""
    return tiny_peft()


def oracle_update(taken, module, row, layers, autocast=False):
    """[P] change of the LoRA weights per learning rate, if the step were on this sample alone."""
    weights, state = taken
    model = blank()
    model.load_state_dict(weights)
    model.zero_grad(set_to_none=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = module.kind(trained, lr=1.0, **module.settings)
    optimizer.load_state_dict(copy.deepcopy(state))
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 1.0, 0.0
    used = row["attention_mask"].bool()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model(input_ids=row["input_ids"][used][None]).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float(), row["labels"][used][1:])
    loss.backward()
    for parameter in trained:  # a small weight shows a small change
        parameter.data.zero_()
    optimizer.step()
    changed = dict(model.named_parameters())
    return torch.cat([-changed[name].detach().flatten() for name in layers.name])


def run(folder, name, callback_options=None, module=None, seed=80, n=12, side="right", **options):
    kind, settings = OPTIMIZERS[name]
    module = Tuned(kind, settings) if module is None else module
    snapshots, rows = Snapshots(), tokens(n, seed=seed, side=side)
    store = captured(
        folder,
        module,
        loader(rows, 3),
        {"optimizer_features": True, **(callback_options or {})},
        callbacks=[snapshots],
        max_steps=-1,
        **options,
    )
    return module, store, snapshots.taken, rows


def assert_updates_equal_oracle(module, store, taken, rows, tolerance, autocast=False):
    records, sketches = store.records(), store.sketches(feature="update")
    codes = store.codes(feature="update").astype(np.float32)
    assert len(records) >= len(rows)
    for i, record in enumerate(records.itertuples()):
        row = rows[record.sample_id]
        expected = oracle_update(taken[record.step], module, row, store.layers, autocast)
        assert relative_error(sketches[i], expected) <= tolerance
        assert record.update_norm == pytest.approx(float(expected.norm()), rel=tolerance)
        assert np.linalg.norm(codes[i]) == pytest.approx(1, abs=1e-2)


# Before the first step, g / (|g| + 1e-8) shows the rounding of gradients that are all but zero.
TOLERANCES = {"AdamW": 1e-2, "amsgrad": 1e-2, "Adam": 1e-4, "momentum": 1e-5, "nesterov": 1e-5}


@pytest.mark.parametrize("name", TOLERANCES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_rows_have_the_update_of_their_step(tmp_path, name, accumulate):
    found = run(tmp_path, name, accumulate_grad_batches=accumulate, max_epochs=2)
    assert len(found[2]) == 8 // accumulate
    assert_updates_equal_oracle(*found, tolerance=TOLERANCES[name])


def test_left_padding_clipping_and_weight_decay(tmp_path):
    """Clipping and decay move the weights and the moments; the sample's own step has neither."""
    module = Tuned(torch.optim.AdamW, {"weight_decay": 0.3, "eps": 1e-4})
    found = run(tmp_path, "AdamW", module=module, side="left", gradient_clip_val=0.05)
    assert_updates_equal_oracle(*found, tolerance=1e-4)


@pytest.mark.parametrize("reduction", ["sum", "sample_mean"])
def test_the_losses_weights_are_undone_before_the_update(tmp_path, reduction):
    class Both(OtherLoss, Tuned):
        def __init__(self):
            Tuned.__init__(self, torch.optim.AdamW, {"eps": 1e-4})
            self.reduction = reduction

    module, options = Both(), {"loss_reduction": reduction}
    assert_updates_equal_oracle(*run(tmp_path, "AdamW", options, module), tolerance=1e-4)


def test_in_bf16(tmp_path):
    module = Tuned(torch.optim.AdamW, {"eps": 1e-3})  # else the smallest gradients are all noise
    found = run(tmp_path, "AdamW", module=module, precision="bf16-mixed")
    assert_updates_equal_oracle(*found, tolerance=5e-2, autocast=True)


def test_modules_that_run_twice_are_summed_before_the_update(tmp_path):
    rows, snapshots = tokens(4, seed=81), Snapshots()
    model = tiny_peft()
    layers = model.base_model.model.model.layers
    layers[1].mlp = layers[0].mlp
    module = Tuned(torch.optim.SGD, {"momentum": 0.9}, model=model)
    store = captured(tmp_path, module, loader(rows, 4), {"optimizer_features": True}, [snapshots])
    np.testing.assert_allclose(
        store.sketches(feature="update"), store.sketches(), rtol=1e-5, atol=1e-8
    )


def test_plain_sgd_moves_along_the_gradient(tmp_path):
    _, store, _, _ = run(tmp_path, "SGD", accumulate_grad_batches=2)
    records = store.records()
    np.testing.assert_allclose(
        store.sketches(feature="update"), store.sketches(), rtol=1e-5, atol=1e-9
    )
    np.testing.assert_allclose(records.update_norm, records.grad_norm, rtol=1e-5)
    np.testing.assert_allclose(records.update_length, records.code_length, rtol=1e-4)


def test_a_sample_that_the_loss_leaves_out_moves_nothing(tmp_path):
    class Weighted(OtherLoss, Tuned):
        def __init__(self):
            Tuned.__init__(self, torch.optim.AdamW, {})
            self.reduction = "callable"

        def training_step(self, batch, batch_idx):
            self.weights = torch.tensor([1.0, 0.0, 2.0])
            logits = self.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            labels = batch["labels"][:, 1:]
            token = torch.nn.functional.cross_entropy(
                logits[:, :-1].transpose(1, 2), labels, reduction="none"
            )
            return (self.weights * token.sum(1) / (labels != -100).sum(1)).sum()

    options = {"loss_reduction": lambda batch: torch.tensor([1.0, 0.0, 2.0])}
    _, store, _, _ = run(tmp_path, "AdamW", options, Weighted())
    left_out = store.sample_ids % 3 == 1
    assert not store.sketches(feature="update")[left_out].any()
    assert store.sketches(feature="update")[~left_out].any(axis=1).all()


def test_a_loss_scaled_in_an_unknown_way_is_refused(tmp_path):
    class Halved(Tuned):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) / 2

    with pytest.raises(CaptureError, match=r"in its own unit.*implies a training loss of"):
        run(tmp_path, "AdamW", {"sanity_samples": 0}, Halved(torch.optim.AdamW, {}))


def test_an_unknown_optimizer_is_refused_before_the_first_step(tmp_path):
    module = Tuned(torch.optim.RMSprop, {})
    with pytest.raises(CaptureError, match=r"rmsprop\.RMSprop updates a weight"):
        run(tmp_path, "AdamW", module=module)
    assert module.losses == []
    assert not (tmp_path / "store").exists()


def test_a_frozen_model_has_no_updates(tmp_path):
    with pytest.raises(ConfigError, match="a frozen model has no optimizer"):
        extract_features(tiny_peft(), loader(tokens(4)), tmp_path / "s", optimizer_features=True)
    assert not (tmp_path / "s").exists()


def fit(folder, **options):
    torch.manual_seed(0)
    queries = loader(tokens(3, seed=83), 2)
    callback = InfluenceCallback(
        str(folder),
        query_dataloader=queries,
        sketch_dim=256,
        code_dim=16,
        keep_sketches=True,
        refresh_queries_every_n_steps=2,
        **options,
    )
    trainer(folder.parent, [callback], max_epochs=2).fit(
        FineTuning(tiny_peft()), loader(tokens(12, seed=82), 3)
    )
    return InfluenceStore(folder)


def test_everything_else_in_the_store_is_as_without_the_option(tmp_path):
    plain, store = fit(tmp_path / "a"), fit(tmp_path / "b", optimizer_features=True)
    np.testing.assert_array_equal(plain.codes(), store.codes())
    np.testing.assert_array_equal(plain.sketches(), store.sketches())
    np.testing.assert_array_equal(plain.query_codes(end=True), store.query_codes(end=True))
    np.testing.assert_array_equal(plain.windows.to_numpy(), store.windows.to_numpy())
    names = list(plain.records())
    np.testing.assert_array_equal(plain.records().to_numpy(), store.records()[names].to_numpy())
    assert set(store.records()) - set(names) == {"update_norm", "update_length"}
    assert not any("update" in name for name in plain.column_names())
    with pytest.raises(StoreError, match=r"it has gradient.*optimizer_features=True"):
        plain.codes(feature="update")


def test_update_codes_are_in_the_space_of_the_gradients(tmp_path):
    """Each row's update went through the tower of its window, as its gradient did."""
    store = fit(tmp_path / "s", optimizer_features=True)
    tower = store.gradient_tower(0)
    projected = tower.project(torch.from_numpy(store.sketches(feature="update")))
    lengths = projected.norm(dim=1)
    np.testing.assert_allclose(store.records().update_length, lengths, rtol=1e-5)
    codes = projected / lengths[:, None]
    np.testing.assert_allclose(store.codes(feature="update"), codes, atol=1e-3)


def test_queries_that_come_later_compare_with_updates(tmp_path):
    store = fit(tmp_path / "s", optimizer_features=True)
    before = store.rank("less").scores
    module = FineTuning(tiny_peft())
    rows = tokens(2, seed=84)
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    store.add_queries(module.model, [batch | {"sample_id": [101, 102]}])
    ranking = store.rank("less")
    assert ranking.per_query.shape == (5, 12)
    np.testing.assert_allclose(ranking.per_query[:3].mean(0), before, rtol=1e-4, atol=1e-8)


def test_rules_know_every_layer_of_a_real_model():
    model = tiny_peft()
    linears = find_lora_linears(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    assert set(update_rules(optimizer, linears)) == {linear.name for linear in linears}
