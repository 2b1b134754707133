"""The capture's own backward pass: it stops at the taps and computes no gradient of a weight."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from conftest import oracle_gradient, relative_error, tiny_peft, tokens

from influcoder_lightning.capture.features import feature_rows
from influcoder_lightning.capture.forward import causal_lm_losses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.projection import build_projector


def capture_of(model):
    linears = find_lora_linears(model)
    capture = GradientCapture(linears, build_projector("identity", linears, 0, 0))
    capture.attach()
    return capture


def rows_of(capture, model, rows):
    batch = torch.utils.data.default_collate(rows)
    return feature_rows(
        capture,
        batch,
        list(range(len(rows))),
        batch["labels"],
        lambda batch: causal_lm_losses(model, batch, "labels"),
    )


def assert_exact(model, rows, capture=None):
    expected = torch.stack([oracle_gradient(model, row) for row in rows])
    found = rows_of(capture or capture_of(model), model, rows)
    assert max(map(relative_error, found.sketch, expected)) <= 1e-5
    assert torch.allclose(found.norm, expected.double().norm(dim=1), rtol=1e-5)


def test_no_weight_gradient_is_computed():
    model = tiny_peft().eval()
    touched = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda grad, name=name: touched.append(name))
    capture = capture_of(model)
    found = rows_of(capture, model, tokens(3, seed=1))
    assert touched == []
    assert all(p.grad is None for p in model.parameters())
    assert bool((found.norm > 0).all())
    capture.detach()
    assert_exact(model, tokens(3, seed=1))


def test_weights_that_are_not_in_the_graph(monkeypatch):
    """A stand-in for sharded weights: the forward uses gathered copies of them."""
    model = tiny_peft().eval()
    rows = tokens(3, seed=2)
    expected = torch.stack([oracle_gradient(model, row) for row in rows])
    for linear in find_lora_linears(model):

        def forward(x, module=linear.module):
            gathered = module.weight.detach().clone().requires_grad_()
            return torch.nn.functional.linear(x, gathered)

        monkeypatch.setattr(linear.module, "forward", forward)
    found = rows_of(capture_of(model), model, rows)
    assert max(map(relative_error, found.sketch, expected)) <= 1e-5


def test_a_module_called_twice():
    model = tiny_peft().eval()
    layers = model.base_model.model.model.layers
    layers[1].mlp = layers[0].mlp
    assert_exact(model, tokens(3, seed=3))


def test_checkpointing_without_reentry():
    model = tiny_peft()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_exact(model.train(), tokens(3, seed=4))


def test_reentrant_checkpointing_is_refused_by_name():
    model = tiny_peft()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(CaptureError, match="use_reentrant=False"):
        rows_of(capture_of(model.train()), model, tokens(3, seed=4))


def test_a_loss_without_a_gradient():
    model = tiny_peft().eval()
    batch = torch.utils.data.default_collate(tokens(2))
    with pytest.raises(CaptureError, match="reached no LoRA layer"):
        feature_rows(capture_of(model), batch, [0, 1], batch["labels"], lambda _: torch.zeros(2))


def test_trouble_of_the_capture_waits_until_the_backward_pass_is_over():
    model, batch = tiny_peft().eval(), torch.utils.data.default_collate(tokens(3))
    model(**batch).loss.backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    capture = capture_of(model)
    capture.begin(2)  # of 3 rows
    loss = model(**batch).loss
    capture.begin_backward()
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(map(torch.equal, found, expected))
    with pytest.raises(CaptureError, match=r"expected \[batch, tokens, features\]"):
        capture.finish()
    capture.begin(3)
    loss = model(**batch).loss
    capture.begin_backward()
    loss.backward()
    assert len(capture.finish().sketch) == 3, "the next batch is captured again"


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_nothing_of_the_graph_stays_alive(end):
    model = tiny_peft().eval()
    capture = capture_of(model)
    alive = []
    watched = next(m for n, m in model.named_modules() if n.endswith("q_proj.lora_B.default"))
    watched.register_forward_hook(lambda module, inputs, out: alive.append(weakref.ref(out)))
    if end == "finish":
        rows_of(capture, model, tokens(2))
    else:
        capture.begin(2, own_backward=True)
        causal_lm_losses(model, torch.utils.data.default_collate(tokens(2)), "labels")
        capture.cancel()
    gc.collect()
    assert alive
    assert all(reference() is None for reference in alive)
    assert capture._anchor is None
