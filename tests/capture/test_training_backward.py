"""The training's own backward pass, with autograd's saved tensors where they are or elsewhere."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from conftest import oracle_gradient, relative_error, tiny_peft, tokens

from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.projection import build_projector


def capture_of(model):
    linears = find_lora_linears(model)
    capture = GradientCapture(linears, build_projector("identity", linears, 0, 0))
    capture.attach()
    return capture


def training_loss(model, rows):
    """Mean over samples of the mean response loss, [], by one forward pass."""
    batch = torch.utils.data.default_collate(rows)
    batch = {key: batch[key] for key in ("input_ids", "labels")}
    logits = model(batch["input_ids"]).logits[:, :-1]
    targets = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (losses.sum(1) / (targets != -100).sum(1)).mean()


@pytest.mark.parametrize(
    "saved", [nullcontext, torch.autograd.graph.save_on_cpu], ids=["in place", "offloaded"]
)
def test_rows_are_exact_wherever_saved_tensors_are(saved):
    model, rows = tiny_peft().eval(), tokens(3, seed=5)
    expected = torch.stack([oracle_gradient(model, row) for row in rows])
    capture = capture_of(model)
    capture.begin(3)
    with saved():
        loss = training_loss(model, rows)
        capture.begin_backward()
        loss.backward()
    found = capture.finish().rescaled(torch.full((3,), 3.0))
    assert max(map(relative_error, found.sketch, expected)) <= 1e-5
    summed = torch.cat([linear.module.weight.grad.flatten() for linear in capture.linears])
    assert relative_error(found.sketch.mean(0), summed) <= 1e-5


def test_offloaded_tensors_are_not_kept_in_memory_by_the_capture():
    """Autograd's saved tensors go through the hooks of whoever offloads them; so must ours."""
    model, packed = tiny_peft().eval(), []
    capture = capture_of(model)
    capture.begin(2)

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        training_loss(model, tokens(2, seed=6))
        n_with = len(packed)
        capture.detach()
        packed.clear()
        training_loss(model, tokens(2, seed=6))
    assert n_with == len(packed) + len(capture.linears)


def test_two_backward_passes_through_one_forward_are_refused():
    model, rows = tiny_peft().eval(), tokens(2, seed=7)
    capture = capture_of(model)
    capture.begin(2)
    loss = training_loss(model, rows)
    capture.begin_backward()
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(CaptureError, match="two backward passes"):
        capture.finish()
