"""`read_batch` says what is what in batches that are no dicts or tuples; rows are then exact."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from capturing import captured
from conftest import FineTuning, loader, oracle_gradient, relative_error, tokens
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from influcoder_lightning import InfluenceCallback, collate_with_sample_ids, with_sample_ids
from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.errors import DataError

NAMES = ("input_ids", "attention_mask", "labels")


def assert_exact(sketches, model, rows):
    for sketch, row in zip(sketches, rows, strict=True):
        assert relative_error(sketch, oracle_gradient(model, row)) <= 1e-5


@dataclasses.dataclass
class Record:
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    sample_ids: Any = None


class Named(NamedTuple):
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class Attributes(FineTuning):
    def training_step(self, batch, batch_idx):
        return self.model(**{n: getattr(batch, n) for n in NAMES}).loss


class Nested(FineTuning):
    def training_step(self, batch, batch_idx):
        return self.model(**batch["text"]).loss


def from_attributes(batch):
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return inputs, batch.labels, None


def from_nested(batch):
    return batch["text"], batch["text"]["labels"], batch["sample_id"]


@pytest.mark.parametrize(
    ("module", "collate", "read"),
    [
        (Attributes, lambda rows: Record(**stacked(rows)), from_attributes),
        (Attributes, lambda rows: Named(**stacked(rows)), from_attributes),
        (Nested, lambda rows: {"text": stacked(rows)}, from_nested),
    ],
    ids=["dataclass", "named tuple", "nested dict"],
)
def test_batches_of_other_kinds_with_read_batch(tmp_path, module, collate, read):
    def batches(rows, size):
        return DataLoader(with_sample_ids(rows), size, collate_fn=collate_with_sample_ids(collate))

    rows, queries = tokens(4, seed=5), tokens(3, seed=6)
    module = module()
    before = copy.deepcopy(module.model)
    options = {"query_dataloader": batches(queries, 2), "read_batch": read}
    store = captured(tmp_path, module, batches(rows, 4), options)
    assert store.sample_ids.tolist() == [0, 1, 2, 3]
    assert_exact(store.sketches(), before, rows)
    assert_exact(store.query_sketches(0), before, queries)


def test_a_dataclass_may_carry_its_ids_itself(tmp_path):
    rows, module = tokens(4, seed=5), Attributes()
    before = copy.deepcopy(module.model)
    batches = DataLoader(rows, 4, collate_fn=lambda r: Record(**stacked(r), sample_ids=[*"abcd"]))
    store = captured(tmp_path, module, batches, {"read_batch": from_attributes})
    assert store.sample_ids.tolist() == [*"abcd"]
    assert_exact(store.sketches(), before, rows)


class Both(FineTuning):
    """Trains on the batches of two loaders together."""

    def training_step(self, batch, batch_idx):
        both = parts(batch)
        return self.model(**{n: torch.cat([part[n] for part in both]) for n in NAMES}).loss


def parts(batch):
    """The loaders' batches in a `CombinedLoader`'s dict or list; a query's batch is alone."""
    if isinstance(batch, dict):
        return [batch] if "labels" in batch else list(batch.values())
    return list(batch)


def from_loaders(batch):
    both = parts(batch)
    inputs = {n: torch.cat([part[n] for part in both]) for n in NAMES[:2]}
    ids = [i for part in both for i in part["sample_id"]]
    return inputs, torch.cat([part["labels"] for part in both]), ids


@pytest.mark.parametrize("combined", [lambda a, b: {"a": a, "b": b}, lambda a, b: [a, b]])
def test_the_batches_of_several_loaders(tmp_path, combined):
    def named(rows, name):
        return loader([{**row, "sample_id": f"{name}{i}"} for i, row in enumerate(rows)], 2)

    some, others, queries = tokens(2, seed=5), tokens(2, seed=6), tokens(2, seed=7)
    module = Both()
    before = copy.deepcopy(module.model)
    options = {"query_dataloader": named(queries, "q"), "read_batch": from_loaders}
    store = captured(tmp_path, module, combined(named(some, "a"), named(others, "b")), options)
    assert store.sample_ids.tolist() == ["a0", "a1", "b0", "b1"]
    assert_exact(store.sketches(), before, some + others)
    assert_exact(store.query_sketches(0), before, queries)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda b: b, r"not \(inputs, labels, ids\)"),
        (lambda b: (b["input_ids"], b["labels"], None), "must be a dict of keyword arguments"),
        (lambda b: (b, b["labels"].float(), None), "2-D integer tensor"),
    ],
)
def test_a_wrong_read_batch_says_what_it_returned(value, message):
    batch = stacked(tokens(2))
    with pytest.raises(DataError, match=message):
        BatchReader(read_batch=value).read(batch)


@pytest.mark.parametrize("option", ["read_batch", "batch_loss"])
def test_functions_may_be_named_by_their_path(option):
    callback = InfluenceCallback(**{option: "influcoder_lightning.capture.forward.logits_of"})
    assert callable(getattr(callback.options, option))
    for value in ("no.such.module.function", 3):
        with pytest.raises(MisconfigurationException, match=option):
            InfluenceCallback(**{option: value})
