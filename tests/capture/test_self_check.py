"""The self-check: quiet where rows are right, an error that names the cause where they are not."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from capturing import assert_rows_equal_oracle, captured
from conftest import FineTuning, loader, tiny_peft, tokens
from other_batches import Passing, Shifted, image_rows, llava, shifted
from torch.nn.functional import cross_entropy

from influcoder_lightning import collate_with_sample_ids, extract_features, with_sample_ids
from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.capture.forward import SampleLosses
from influcoder_lightning.errors import CaptureError


def said(caplog):
    return [r.getMessage() for r in caplog.records if "self-check" in r.getMessage()]


@pytest.fixture(autouse=True)
def _heard(caplog):
    caplog.set_level("INFO")


@pytest.mark.parametrize("side", ["right", "left"])
def test_one_line_says_that_rows_are_right_and_how_close(tmp_path, caplog, side):
    module = FineTuning()
    before = copy.deepcopy(module.model)
    rows = tokens(6, seed=1, side=side)
    store = captured(tmp_path, module, loader(rows, 6))
    assert_rows_equal_oracle(store, before, rows)
    (line,) = said(caplog)
    assert "2 samples alone give the captured gradients (relative error at most" in line
    assert "and losses" in line


def test_zero_samples_turn_it_off(tmp_path, caplog):
    captured(tmp_path, FineTuning(), loader(tokens(4), 4), {"sanity_samples": 0})
    assert not said(caplog)


def test_labels_that_are_shifted_already_are_noticed(tmp_path):
    rows = shifted(tokens(6, seed=2))
    for row in rows:
        row["labels"] = torch.where(row["attention_mask"].bool(), row["input_ids"].roll(-1), -100)
    with pytest.raises(CaptureError, match=r"self-check.*labels that are shifted already"):
        captured(tmp_path, Shifted(), loader(rows, 6))


class Reduced(FineTuning):
    """The sum over tokens, where the mean is declared."""

    def training_step(self, batch, batch_idx):
        logits = self.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"][:, 1:].flatten()
        return cross_entropy(logits[:, :-1].flatten(0, 1), labels, reduction="sum")


def test_another_weight_in_the_loss_is_named_first(tmp_path):
    with pytest.raises(CaptureError, match=r"first: \(1\) other weights of the samples"):
        captured(tmp_path, Reduced(), loader(tokens(5, seed=9), 5))


class Sorted(FineTuning):
    """Turns the batch round inside the step, as some do to save padding."""

    def training_step(self, batch, batch_idx):
        inputs = {n: batch[n].flip(0) for n in ("input_ids", "attention_mask", "labels")}
        return self.model(**inputs).loss


def test_rows_in_another_order_are_named_first(tmp_path):
    with pytest.raises(CaptureError, match=r"first: \(1\) rows in another order"):
        captured(tmp_path, Sorted(), loader(tokens(5, seed=9), 5))


class Blind(FineTuning):
    """Gives its model images under a name that no argument has."""

    def training_step(self, batch, batch_idx):
        inputs = {n: batch[n] for n in ("input_ids", "attention_mask", "labels")}
        return self.model(**inputs, pixel_values=batch["pictures"]).loss


def pictures(rows):
    return [{("pictures" if k == "pixel_values" else k): v for k, v in row.items()} for row in rows]


def test_inputs_that_queries_would_not_get_are_named_first(tmp_path):
    """Without queries it is a warning: the rows themselves may be right, and here they are."""
    rows, module = image_rows(4), Blind(llava())
    with pytest.warns(UserWarning, match=r"first: \(1\) inputs that .* did not get \(`pictures`\)"):
        captured(tmp_path, module, loader(pictures(rows), 4))


class Auxiliary(FineTuning):
    """A term beside the loss that has no gradient, as a router's is where it is frozen."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def training_step(self, batch, batch_idx):
        term = torch.tensor(self.size)
        return {"loss": super().training_step(batch, batch_idx) + term, "router_loss": term}


@pytest.mark.parametrize("size", [0.5, 0.02])
def test_a_term_that_explains_the_difference_is_named_and_the_run_goes_on(tmp_path, size):
    rows = tokens(5, seed=9)
    module = Auxiliary(size)
    before = copy.deepcopy(module.model)
    with pytest.warns(UserWarning, match="`router_loss`.*the run goes on"):
        store = captured(tmp_path, module, loader(rows, 5))
    assert_rows_equal_oracle(store, before, rows)


class Unexplained(FineTuning):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 1.0 + 0.02


def test_a_small_term_that_nothing_explains_is_an_error(tmp_path):
    with pytest.raises(CaptureError, match=r"imply a training loss of .* but the training step"):
        captured(tmp_path, Unexplained(), loader(tokens(5, seed=9), 5))


def test_a_reference_model_that_runs_first_does_not_mislead(tmp_path, caplog):
    class Referenced(FineTuning):
        def training_step(self, batch, batch_idx):
            inputs = {n: batch[n] for n in ("input_ids", "attention_mask")}
            with self.model.disable_adapter():
                self.model(**inputs)
            self.model(**{**inputs, "input_ids": inputs["input_ids"].roll(1, 1)})  # not trained on
            return super().training_step(batch, batch_idx)

    rows, module = tokens(5, seed=9), Referenced()
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader(rows, 5))
    assert_rows_equal_oracle(store, before, rows)
    assert len(said(caplog)) == 1


def test_with_dropout_the_line_says_what_was_compared(tmp_path, caplog):
    module = FineTuning(tiny_peft(lora_dropout=0.3))
    module.model.train()
    captured(tmp_path, module, loader(tokens(5, seed=9), 5))
    (line,) = said(caplog)
    assert "compared in eval mode; the training path itself was compared by its loss only" in line


def test_a_wrong_order_is_noticed_through_its_loss_under_dropout(tmp_path):
    module = Sorted(tiny_peft(lora_dropout=0.3))
    module.model.train()
    with pytest.raises(CaptureError, match="imply a training loss"):
        captured(tmp_path, module, loader(tokens(5, seed=9), 5))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_is_compared(tmp_path, caplog, precision):
    captured(tmp_path, FineTuning(), loader(tokens(6, seed=3), 6), precision=precision)
    assert len(said(caplog)) == 1


def test_bf16_notices_another_order(tmp_path):
    with pytest.raises(CaptureError, match="self-check"):
        captured(tmp_path, Sorted(), loader(tokens(5, seed=9), 5), precision="bf16-mixed")


def test_on_error_warn_ends_the_valuation_and_the_training_goes_on(tmp_path):
    module = Sorted()
    with pytest.warns(UserWarning, match=r"THE VALUATION HAS STOPPED.*self-check"):
        captured(tmp_path, module, loader(tokens(12), 4), {"on_error": "warn"}, max_steps=3)
    assert module.trainer.global_step == 3


class Counting(FineTuning):
    """Keeps a counter, a mean and a replaced buffer in every forward, also in eval mode."""

    def __init__(self):
        torch.manual_seed(3)
        model = tiny_peft(lora_dropout=0.2)
        super().__init__(model)
        base = model.get_base_model()
        base.register_buffer("calls", torch.zeros(()))
        base.register_buffer("seen", torch.zeros(2), persistent=False)
        base.register_forward_hook(self._count)
        model.train()

    def _count(self, module, inputs, output):
        module.calls += 1
        module.seen = module.seen + 1
        if self.training:
            output.logits.add_(0.0)

    def training_step(self, batch, batch_idx):
        self.draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_buffers_and_streams_are_untouched(tmp_path, precision, checkpointing):
    ends = []
    for samples in (0, 2):
        module = Counting()
        if checkpointing:
            module.model.enable_input_require_grads()
            module.model.gradient_checkpointing_enable({"use_reentrant": False})
        options = {"sanity_samples": samples, "query_dataloader": loader(tokens(2, seed=7), 2)}
        torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
        rows = loader(tokens(8, seed=6), 4, shuffle=True)
        folder = tmp_path / str(samples)
        captured(folder, module, rows, options, max_steps=2, precision=precision)
        base = module.model.get_base_model()
        ends.append((module.losses, module.draws, float(base.calls), base.seen.tolist(),
                     [p.detach().clone() for p in module.parameters()], torch.rand(1)))  # fmt: skip
    for one, other in zip(*ends, strict=True):
        if isinstance(one, list) and isinstance(one[0], torch.Tensor):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        else:
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    assert ends[0][2] == 2  # the training's own forwards


def test_images_are_part_of_the_check(tmp_path, caplog):
    captured(tmp_path, Passing(llava()), loader(image_rows(4), 4))
    assert len(said(caplog)) == 1


FROZEN = {"projector": "identity", "keep_sketches": True, "co_train": False, "code_dim": 8}


def test_frozen_rows_and_later_queries_are_compared_with_samples_alone(tmp_path, caplog):
    model = tiny_peft().eval()
    store = extract_features(model, loader(tokens(6, seed=1), 3), tmp_path / "store", **FROZEN)
    named = [{**row, "sample_id": f"q{i}"} for i, row in enumerate(tokens(3, seed=2))]
    store.add_queries(model, loader(named, 3))
    lines = said(caplog)
    assert len(lines) == 2
    assert all("2 samples alone give the captured gradients" in line for line in lines)


def leaking(model, batch):
    """Losses of a model that adds up what the samples of a batch say."""
    inputs = {n: batch[n] for n in ("input_ids", "attention_mask")}
    logits = model(**inputs).logits
    logits = logits + 0.1 * logits.mean(0)
    token = cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    return token.sum(1) / (batch["labels"][:, 1:] != -100).sum(1)


def test_a_frozen_model_whose_samples_see_each_other_is_an_error(tmp_path):
    with pytest.raises(CaptureError, match="self-check"):
        extract_features(
            tiny_peft().eval(), loader(tokens(4), 4), tmp_path / "s", batch_loss=leaking, **FROZEN
        )


def test_batches_that_cannot_be_cut_are_compared_within_themselves(tmp_path, caplog):
    """Extra tensors of another size belong to no sample; the loss is run backward one by one."""

    def losses(module, batch):
        return SampleLosses(module, module.model, BatchReader(), None)(batch)

    rows = tokens(5, seed=3)
    module = FineTuning()
    before = copy.deepcopy(module.model)

    def collate(samples):
        batch = torch.utils.data.default_collate(samples)
        return {**batch, "other": torch.zeros(7)}

    data = torch.utils.data.DataLoader(
        with_sample_ids(rows), 5, collate_fn=collate_with_sample_ids(collate)
    )
    options = {"batch_loss": lambda m, b: losses(m, {k: v for k, v in b.items() if k != "other"})}
    store = captured(tmp_path, module, data, options)
    assert_rows_equal_oracle(store, before, rows)
    assert len(said(caplog)) == 1
