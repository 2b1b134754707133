"""The study's gradients against one-sample autograd, and LESS against a real AdamW step."""

import copy

import numpy as np
import pytest
import torch
from conftest import FineTuning, loader, oracle_gradient, relative_error, tiny_peft, tokens, trainer

from influcoder_lightning.capture.late_blocks import late_blocks
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.projection import build_projector
from influcoder_lightning.studies.fidelity.gradients import capture_exact, int8_rows, project
from influcoder_lightning.studies.fidelity.states import KeepMoments, no_moments


@pytest.fixture(scope="module")
def model():
    return tiny_peft()


@pytest.fixture(scope="module")
def samples():
    return [{k: v for k, v in row.items() if k != "sample_id"} | {"sample_id": i, "prompt": "",
             "response": ""} for i, row in enumerate(tokens(5))]  # fmt: skip


def captured(model, linears, samples):
    size = sum(linear.numel for linear in linears)
    rows = np.zeros((len(samples), size), np.float32)

    def keep(positions, gradients):
        rows[positions] = gradients.numpy()

    assert capture_exact(model, linears, samples, 0, 2, keep) > 0
    return rows


def test_exact_rows_equal_autograd_in_the_order_of_the_dataset(model, samples):
    rows = captured(model, find_lora_linears(model), samples)
    for row, sample in zip(rows, samples, strict=True):
        assert relative_error(torch.from_numpy(row), oracle_gradient(model, sample)) < 1e-5


def test_late_blocks_are_the_end_of_the_whole_gradient(model, samples):
    linears = find_lora_linears(model)
    whole = captured(model, linears, samples)
    with late_blocks(model, 1) as late:
        assert 0 < len(late) < len(linears)
        part = captured(model, late, samples)
    np.testing.assert_allclose(part, whole[:, -part.shape[1] :], rtol=1e-4, atol=1e-7)
    assert all(linear.module.weight.requires_grad for linear in linears)
    with pytest.raises(CaptureError, match="covers 2 blocks"), late_blocks(model, 3):
        pass


def test_projecting_afterwards_equals_projecting_at_capture(model, samples):
    linears = find_lora_linears(model)
    whole = torch.from_numpy(captured(model, linears, samples))
    identity = build_projector("identity", linears, 0, 0)
    torch.testing.assert_close(project(identity, linears, whole), whole)


def test_the_adam_direction_is_what_adamw_does_next(model):
    weights = [linear.module.weight for linear in find_lora_linears(model)]
    size = sum(w.numel() for w in weights)
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(4, size, generator=generator)

    def step(optimizer, parameters, gradient):
        start = 0
        for p in parameters:
            p.grad = gradient[start : start + p.numel()].view_as(p).clone()
            start += p.numel()
        before = torch.cat([p.detach().flatten() for p in parameters])
        optimizer.step()
        return before - torch.cat([p.detach().flatten() for p in parameters])

    parameters = [torch.nn.Parameter(torch.zeros_like(w)) for w in weights]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0)
    fresh = no_moments(size).update(gradients[:1])[0]
    torch.testing.assert_close(fresh, step(optimizer, parameters, gradients[0]))
    torch.testing.assert_close(fresh, gradients[0].sign(), atol=1e-4, rtol=0)
    step(optimizer, parameters, gradients[1])

    class Stub:
        optimizers = (optimizer,)

    keeper = KeepMoments(
        [copy.copy(x) for x in find_lora_linears(model)]  # same names, other weights
    )
    keeper._linears = [type("L", (), {"weight": p}) for p in parameters]
    keeper.on_train_end(Stub())
    assert keeper.moments.step == 2
    predicted = keeper.moments.update(gradients[2:])
    torch.testing.assert_close(
        predicted[0], step(optimizer, parameters, gradients[2]), atol=1e-5, rtol=1e-4
    )


def test_moments_are_read_off_a_real_run(tmp_path):
    module = FineTuning()
    keeper = KeepMoments(find_lora_linears(module.model))
    trainer(tmp_path, [keeper], max_epochs=1).fit(module, loader(tokens(8), 4))
    assert keeper.moments.step == 2
    assert keeper.moments.first.numel() == sum(x.numel for x in find_lora_linears(module.model))
    assert bool((keeper.moments.second >= 0).all())
    assert bool(keeper.moments.second.any())


def test_int8_rows_are_off_by_half_a_step_at_most():
    rows = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32) * np.logspace(
        -2, 1, 6, dtype=np.float32
    )[:, None]  # fmt: skip
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    assert (np.abs(int8_rows(rows) - rows) <= 0.5 * step + 127 * step * 1e-3).all()
    assert not int8_rows(np.zeros((2, 4), np.float32)).any()
