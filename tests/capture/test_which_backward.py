"""Only the training loss's backward pass counts, whatever else a step differentiates."""

from __future__ import annotations

import copy

import pytest
import torch
from capturing import assert_rows_equal_oracle, captured
from conftest import FineTuning, loader, relative_error, tokens
from torch.nn.functional import cross_entropy

from influcoder_lightning.errors import CaptureError


def loss_at(model, embeddings, row):
    return model(
        inputs_embeds=embeddings, attention_mask=row["attention_mask"], labels=row["labels"]
    ).loss


def adversarial(model, row):
    """The loss at embeddings moved by the sign of their own gradient."""
    found = model.get_input_embeddings()(row["input_ids"]).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_at(model, found, row), found)
    return loss_at(model, found.detach() + 0.01 * gradient.sign(), row)


class Adversarial(FineTuning):
    def training_step(self, batch, batch_idx):
        return adversarial(self.model, batch)


class LogsNorm(FineTuning):
    """Logs the norm of its gradient at every second batch."""

    def norm_of(self, loss):
        trained = [p for p in self.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, trained, retain_graph=True)
        self.norm = sum(float(gradient.norm()) for gradient in gradients)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx % 2 == 0:
            self.norm_of(loss)
        return loss


def adversarial_oracle(model, row):
    used = row["attention_mask"].bool()
    alone = {name: value[used][None] for name, value in row.items()}
    model.zero_grad(set_to_none=True)
    adversarial(model, alone).backward()
    found = [p.grad.flatten().clone() for n, p in model.named_parameters() if ".lora_" in n]
    model.zero_grad(set_to_none=True)
    return torch.cat(found)


@pytest.mark.parametrize("saved", ["in memory", "offloaded", "recomputed"])
def test_autograd_grad_inside_the_step_is_not_counted(tmp_path, saved):
    class Step(LogsNorm):
        def training_step(self, batch, batch_idx):
            if saved != "offloaded":
                return super().training_step(batch, batch_idx)
            with torch.autograd.graph.save_on_cpu():
                return super().training_step(batch, batch_idx)

    rows, module = tokens(8, seed=71), Step(rate=0.0)
    before = copy.deepcopy(module.model)
    if saved == "recomputed":
        module.model.enable_input_require_grads()
        module.model.gradient_checkpointing_enable({"use_reentrant": False})
    store = captured(tmp_path, module, loader(rows, 4), max_steps=2)
    assert len(store) == 8
    assert_rows_equal_oracle(store, before, rows)


def test_rows_are_those_of_the_adversarial_loss_alone(tmp_path):
    """Without queries the self-check only warns that the training has another loss than they."""
    rows, module = tokens(4, seed=72), Adversarial()
    before = copy.deepcopy(module.model)
    with pytest.warns(UserWarning, match=r"first: \(1\) inputs that are changed inside"):
        store = captured(tmp_path, module, loader(rows, 4))
    assert_rows_equal_oracle(store, before, rows, oracle=adversarial_oracle, tolerance=1e-4)


def adversarial_losses(module, batch):
    """The losses of `adversarial` by themselves, as a user would write them."""
    targets, found = batch["labels"][:, 1:], module.model.get_input_embeddings()(batch["input_ids"])
    found = found.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_at(module.model, found, batch), found)
    logits = module.model(
        inputs_embeds=found.detach() + 0.01 * gradient.sign(),
        attention_mask=batch["attention_mask"],
    ).logits[:, :-1]
    token = cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return token.sum(1) / (targets != -100).sum(1)


def test_queries_of_an_adversarial_training_may_have_its_loss(tmp_path, caplog):
    caplog.set_level("INFO")
    rows, queries, module = tokens(4, seed=72), tokens(2, seed=73), Adversarial()
    before = copy.deepcopy(module.model)
    options = {"batch_loss": adversarial_losses, "query_dataloader": loader(queries, 2)}
    store = captured(tmp_path, module, loader(rows, 4), options)
    assert_rows_equal_oracle(store, before, rows, oracle=adversarial_oracle, tolerance=1e-4)
    for sketch, row in zip(store.query_sketches(0), queries, strict=True):
        assert relative_error(sketch, adversarial_oracle(before, row)) <= 1e-4
    assert "2 samples alone give the captured gradients" in caplog.text


def test_a_gradient_that_is_only_logged_may_keep_its_graph(tmp_path):
    class Step(FineTuning):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            trained = [p for p in self.parameters() if p.requires_grad]
            self.kept = torch.autograd.grad(loss, trained, create_graph=True)
            return loss

    rows, module = tokens(4, seed=73), Step()
    before = copy.deepcopy(module.model)
    assert_rows_equal_oracle(captured(tmp_path, module, loader(rows, 4)), before, rows)


def test_a_gradient_penalty_is_refused(tmp_path):
    class Penalised(FineTuning):
        def training_step(self, batch, batch_idx):
            found = self.model.get_input_embeddings()(batch["input_ids"]).detach()
            loss = loss_at(self.model, found.requires_grad_(True), batch)
            (gradient,) = torch.autograd.grad(loss, found, create_graph=True)
            return loss + gradient.square().sum()

    module = Penalised()
    module.model.set_attn_implementation("eager")  # the others have no second derivative
    with pytest.raises(CaptureError, match="gradient penalty"):
        captured(tmp_path, module, loader(tokens(4), 4))


@pytest.mark.parametrize("hook", ["on_before_backward", "backward"])
def test_another_pass_after_the_step_is_refused_not_added(tmp_path, hook):
    """Also where autograd's tensors are recomputed, so that a second pass would find them."""

    def extra(self, loss, *_):
        self.norm_of(loss)
        if hook == "backward":
            loss.backward()

    module = type("Late", (LogsNorm,), {hook: extra, "training_step": FineTuning.training_step})()
    module.model.enable_input_require_grads()
    module.model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(CaptureError, match="two backward passes"):
        captured(tmp_path, module, loader(tokens(4), 4))


class BackwardInside(FineTuning):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx).backward()
        return super().training_step(batch, batch_idx)


def test_backward_inside_the_step_is_not_counted_where_its_gradient_is_set_to_zero(tmp_path):
    rows, module = tokens(4, seed=74), BackwardInside()
    before = copy.deepcopy(module.model)
    assert_rows_equal_oracle(captured(tmp_path, module, loader(rows, 4)), before, rows)


def test_backward_inside_the_step_that_trains_is_refused(tmp_path):
    with pytest.raises(CaptureError, match=r"itself called `\.backward\(\)`"):
        captured(tmp_path, BackwardInside(), loader(tokens(4), 2), accumulate_grad_batches=2)


class SAM(torch.optim.SGD):
    """Climbs along the gradient, runs the step once more there, and comes back."""

    def step(self, closure=None):
        with torch.enable_grad():
            closure()
        moved = [(p, 0.05 * p.grad) for g in self.param_groups for p in g["params"]]
        for parameter, climb in moved:
            parameter.data.add_(climb)
        with torch.enable_grad():
            loss = closure()
        for parameter, climb in moved:
            parameter.data.sub_(climb)
        super().step()
        return loss


@pytest.mark.parametrize(
    ("optimizer", "name"), [(SAM, "SAM"), (torch.optim.LBFGS, "L-BFGS")], ids=["SAM", "LBFGS"]
)
def test_an_optimizer_with_several_passes_is_named(tmp_path, optimizer, name):
    class Trained(FineTuning):
        def configure_optimizers(self):
            return optimizer([p for p in self.parameters() if p.requires_grad], lr=0.1)

    with pytest.raises(CaptureError, match=f"optimizer {name} runs the training step several"):
        captured(tmp_path, Trained(), loader(tokens(4), 4))
