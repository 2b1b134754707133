"""Capture under torch.compile: exact where the hooks are seen, an error where they are not."""

from __future__ import annotations

import pytest
import torch
from conftest import FineTuning, oracle_gradient, relative_error, tiny_peft, tokens, trainer

from influcoder_lightning import InfluenceCallback
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.projection import build_projector

LORA = {"target_modules": ["v_proj"]}  # few graph breaks: compiling takes long
ROWS = tokens(3, seed=51)
BATCH = torch.utils.data.default_collate(ROWS)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def capture_of(model):
    linears = find_lora_linears(model)
    return GradientCapture(linears, build_projector("identity", linears, 0, 0))


def step(model, capture=None):
    """One forward and backward pass; the rows, if there is a capture."""
    model.zero_grad(set_to_none=True)
    if capture is not None:
        capture.begin(len(ROWS))
    loss = model(**BATCH).loss
    if capture is not None:
        capture.begin_backward()
    loss.backward()
    if capture is None:
        return None
    n = (BATCH["labels"][:, 1:] != -100).sum(1)
    return capture.finish().rescaled(n.sum() / n)


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_exact(captured):
    model = tiny_peft(**LORA)
    for sketch, row in zip(captured.sketch, ROWS, strict=True):
        assert relative_error(sketch, oracle_gradient(model, row)) <= 1e-5


@pytest.mark.parametrize(("backend", "ran_before"), [("eager", True), ("aot_eager", False)])
def test_rows_are_exact_and_training_the_same(backend, ran_before):
    plain = torch.compile(tiny_peft(**LORA), backend=backend)
    step(plain)
    expected = gradients(plain)
    model = tiny_peft(**LORA)
    compiled = torch.compile(model, backend=backend)
    if ran_before:
        step(compiled)
    capture = capture_of(model)
    capture.attach(compiled=True)
    for _ in range(2):  # traced, then run from the cache
        assert_exact(step(compiled, capture))
        if backend == "eager":
            assert torch.equal(gradients(compiled), expected)
        assert relative_error(gradients(compiled), expected) <= 1e-6
    capture.detach()
    step(compiled)
    assert torch.equal(gradients(compiled), expected), "the model is as it was"


def test_modules_compiled_in_place():
    model = tiny_peft(**LORA)
    for layer in model.base_model.model.model.layers:
        layer.compile(backend="aot_eager")
    capture = capture_of(model)
    capture.attach(compiled=True)
    assert_exact(step(model, capture))


def test_code_compiled_without_the_hooks_is_noticed():
    model = tiny_peft(**LORA)
    compiled = torch.compile(model, backend="eager")
    step(compiled)
    capture = capture_of(model)
    capture.attach()
    with pytest.raises(CaptureError, match=r"no capture hook saw.*torch\.compiler\.reset"):
        step(compiled, capture)


def test_one_layer_that_bypasses_its_linears_is_noticed(monkeypatch):
    """A fused kernel that reads the weights would leave a hole in every row."""
    model = tiny_peft()
    layer = next(m for n, m in model.named_modules() if n.endswith("layers.1.mlp.up_proj"))
    a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
    monkeypatch.setattr(layer, "forward", lambda x: layer.base_layer(x) + 2 * x @ a.T @ b.T)
    capture = capture_of(model)
    capture.attach()
    with pytest.raises(CaptureError, match=r"layers\.1\.mlp\.up_proj.*no capture hook saw"):
        step(model, capture)


def test_a_compiled_lightning_module_is_refused_by_name(tmp_path):
    """Lightning unwraps it before the callback comes, and compiles its methods again."""
    from conftest import loader

    module = torch.compile(FineTuning(), backend="eager")
    callback = InfluenceCallback(str(tmp_path / "store"), sketch_dim=64, code_dim=8)
    with pytest.raises(CaptureError, match=r"torch\.compile"):
        trainer(tmp_path, [callback]).fit(module, loader(ROWS, 3))
