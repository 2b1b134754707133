"""Capture under torch.compile: exact where the hooks are seen, an error where they are not."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import (
    VOCAB,
    FineTuning,
    loader,
    oracle_gradient,
    relative_error,
    tiny_peft,
    tokens,
    trainer,
)
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from influcoder_lightning import InfluenceCallback, InfluenceStore
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.projection import build_projector

# Compiling takes long, and each LoRA linear breaks the graph: one in one layer.
LORA = {"target_modules": ["v_proj"], "layers_to_transform": [1]}
ROWS = tokens(3, seed=51)
BATCH = torch.utils.data.default_collate(ROWS)


class Small(nn.Module):
    """A causal language model that is compiled in a moment."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)
        self.mix = nn.Linear(16, 16)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.head(torch.tanh(self.mix(self.embed(input_ids))).cumsum(1))
        if labels is None:
            return CausalLMOutput(logits=logits)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


def small():
    torch.manual_seed(0)
    model = get_peft_model(Small(), LoraConfig(r=4, target_modules=["mix"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


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


def assert_exact(captured, model):
    for sketch, row in zip(captured.sketch, ROWS, strict=True):
        assert relative_error(sketch, oracle_gradient(model, row)) <= 1e-5


@pytest.mark.parametrize(("backend", "ran_before"), [("eager", True), ("aot_eager", False)])
def test_rows_are_exact_and_training_the_same(backend, ran_before):
    plain, model = torch.compile(small(), backend=backend), small()
    step(plain)
    expected = gradients(plain)
    compiled = torch.compile(model, backend=backend)
    if ran_before:
        step(compiled)
    capture = capture_of(model)
    capture.attach(compiled=True)
    for _ in range(2):  # traced, then run from the cache
        assert_exact(step(compiled, capture), small())
        if backend == "eager":
            assert torch.equal(gradients(compiled), expected)
        assert relative_error(gradients(compiled), expected) <= 1e-6
    capture.detach()
    step(compiled)
    assert torch.equal(gradients(compiled), expected), "the model is as it was"


@pytest.mark.parametrize(("part", "backend"), [("layers.1", "aot_eager"), ("", "eager")])
def test_modules_compiled_in_place(part, backend):
    """One decoder layer, or the whole decoder."""
    model = tiny_peft(**LORA)
    model.base_model.model.model.get_submodule(part).compile(backend=backend)
    capture = capture_of(model)
    capture.attach(compiled=True)
    assert_exact(step(model, capture), tiny_peft(**LORA))


def test_code_compiled_without_the_hooks_is_noticed():
    model = small()
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
    module = torch.compile(FineTuning(), backend="eager")
    callback = InfluenceCallback(str(tmp_path / "store"), sketch_dim=64, code_dim=8)
    with pytest.raises(CaptureError, match=r"torch\.compile"):
        trainer(tmp_path, [callback]).fit(module, loader(ROWS, 3))


def test_a_compiled_model_where_it_is_asked_for(tmp_path):
    module = FineTuning(small())
    before = copy.deepcopy(module.model)
    module.model = torch.compile(module.model, backend="eager")
    settings = {"projector": "identity", "code_dim": 8, "keep_sketches": True}
    callback = InfluenceCallback(str(tmp_path / "s"), allow_compiled=True, **settings)
    rows = tokens(4)
    trainer(tmp_path, [callback]).fit(module, loader(rows))
    store = InfluenceStore(tmp_path / "s")
    for row, sketch in zip(rows, store.sketches(), strict=True):
        assert relative_error(sketch, oracle_gradient(before, row)) <= 1e-5
