"""Malformed samples, ids and labels of training batches, and rows that are to be tokenised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from corpus import Case
from torch.utils.data import IterableDataset

from influcoder_lightning import (
    collate_samples,
    collate_with_sample_ids,
    with_sample_ids,
    write_jsonl,
)
from influcoder_lightning.data.sample_ids import batch_labels, batch_sample_ids
from influcoder_lightning.data.template import Template
from influcoder_lightning.errors import ConfigError, DataError


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(())


class Hostile(dict):
    """A batch whose keys are no text."""


def ids(value: Any) -> Callable[[], Any]:
    return lambda: batch_sample_ids({"sample_id": value})


def labels(value: Any, key: Any = "labels") -> Callable[[], Any]:
    return lambda: batch_labels({"labels": value}, key)


def collated(*samples: Any, collate: Any = None) -> Callable[[], Any]:
    return lambda: collate_with_sample_ids(collate)(list(samples))


BATCHES: dict[str, tuple[Callable[[], Any], str]] = {
    "no ids": (lambda: batch_sample_ids({"x": 1}), "no 'sample_id'"),
    "a tensor as batch": (lambda: batch_sample_ids(torch.ones(3)), "no attribute 'sample_ids'"),
    "None as batch": (lambda: batch_sample_ids(None), "no attribute 'sample_ids'"),
    "keys that are no text": (lambda: batch_sample_ids(Hostile({1: 2, None: 3})), "no 'sample_id'"),
    "fractions as ids": (ids(torch.tensor([1.0, 2.0])), "integer or a string"),
    "NaN as id": (ids([math.nan]), "integer or a string"),
    "flags as ids": (ids(torch.tensor([True, False])), "integer or a string"),
    "a table of ids": (ids(torch.ones(2, 2, dtype=torch.int64)), "one per sample"),
    "one id for all": (ids(torch.tensor(5)), "one per sample"),
    "text for all": (ids("abc"), "list with one per sample"),
    "bytes for all": (ids(b"abc"), "list with one per sample"),
    "bytes as ids": (ids([b"a", b"b"]), "integer or a string"),
    "a number for all": (ids(7), "list with one per sample"),
    "nested ids": (ids([[1], [2]]), "integer or a string"),
    "None among ids": (ids([1, None]), "integer or a string"),
    "ids of both kinds": (ids([1, "b"]), "mix integers and strings"),
    "an id beyond int64": (ids([2**63]), "64 bits"),
    "an id below int64": (ids([-(2**63) - 1]), "64 bits"),
    "an unsigned id beyond int64": (ids(np.array([2**64 - 1], dtype=np.uint64)), "64 bits"),
    "dates as ids": (ids(np.array(["2024-01-01"], dtype="M8[D]")), "integer or a string"),
    "complex ids": (ids(torch.tensor([1j])), "integer or a string"),
    "objects as ids": (ids(np.array([{}, {}], dtype=object)), "integer or a string"),
    "an id with a lone surrogate": (ids(["\ud800"]), "surrogate"),
    "an id with NUL": (ids(["a\0b"]), "NUL"),
    "an id of a million letters": (ids([1, "x" * 10**6]), "mix integers and strings"),
    "a huge object as id": (ids([{"a": "x" * 10**6}]), "integer or a string"),
    "a sparse tensor of ids": (ids(torch.ones(3, dtype=torch.int64).to_sparse()), "ids"),
    "ids on no device": (ids(torch.ones(3, dtype=torch.int64, device="meta")), "ids"),
    "no labels": (lambda: batch_labels({"x": 1}), "no 'labels'"),
    "an empty tuple": (lambda: batch_labels(()), "no labels to be found"),
    "a tuple that is too short": (lambda: batch_labels((1, 2), 5), "none at 5"),
    "labels that are fractions": (labels(torch.ones(2, 3)), "2-D integer tensor"),
    "labels that are flags": (labels(torch.ones(2, 3, dtype=torch.bool)), "2-D integer tensor"),
    "labels of one dimension": (labels(torch.ones(3, dtype=torch.int64)), "2-D integer tensor"),
    "labels of three dimensions": (labels(torch.ones(1, 2, 3, dtype=torch.int64)), "2-D integer"),
    "labels that are a list": (labels([[1, 2]]), "2-D integer tensor, not a list"),
    "labels that are an array": (labels(np.ones((2, 3), int)), "2-D integer tensor"),
    "labels that are None": (labels(None), "2-D integer tensor"),
    "labels that are complex": (labels(torch.ones(2, 3, dtype=torch.complex64)), "2-D integer"),
    "a key that cannot be one": (labels(torch.ones(2, 3), ["labels"]), "labels_key"),
    "a sample that is a number": (lambda: with_sample_ids([1, 2])[0], "cannot carry an id"),
    "a sample that is None": (lambda: with_sample_ids([None])[0], "cannot carry an id"),
    "a sample whose id is a list": (lambda: with_sample_ids([{"id": [1]}])[0], "sample 0"),
    "a stream": (lambda: with_sample_ids(Stream()), "not a map-style dataset"),
    "a generator": (lambda: with_sample_ids(x for x in ()), "not a map-style dataset"),
    "fewer ids than samples": (lambda: with_sample_ids([{}, {}], ids=[1]), "1 ids for 2"),
    "given ids of both kinds": (lambda: with_sample_ids([{}, {}], ids=[1, "b"]), "mixes"),
    "given ids with a fraction": (lambda: with_sample_ids([{}], ids=[0.5]), "integer or a string"),
    "another id than given": (
        lambda: with_sample_ids([{"sample_id": 3}], ids=[4])[0],
        "already has",
    ),
    "samples without ids": (collated({"x": 1}), "no sample id"),
    "numbers as samples": (collated(1, 2), "no sample id"),
    "samples with ids of both kinds": (
        collated({"x": 1, "sample_id": 1}, {"x": 1, "sample_id": "b"}),
        "mix integers and strings",
    ),
    "a collate that returns a tensor": (
        collated({"x": 1, "sample_id": 1}, collate=lambda samples: torch.ones(1)),
        "cannot carry sample ids",
    ),
    "a collate that returns None": (
        collated({"x": 1, "sample_id": 1}, collate=lambda samples: None),
        "cannot carry sample ids",
    ),
}

SETTINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "no pad token": (lambda: collate_samples(None), "no pad token"),
    "another side": (lambda: collate_samples(0, "up"), "padding_side"),
    "no slot": (lambda: Template("hello"), "exactly once"),
    "a slot twice": (lambda: Template("{prompt}{prompt}{response}"), "exactly once"),
    "slots in the wrong order": (lambda: Template("{response}{prompt}"), "before"),
}

WRITTEN: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "an object": object(),
    "bytes": b"a",
    "a lone surrogate": "\ud800",
    "a tensor": torch.ones(2),
}


def _nested() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _written(value: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: write_jsonl([{"a": 1}, {"a": value()}], "rows.jsonl")


def _case(surface: str, name: str, call: Callable[[], Any], words: str, error: Any) -> Case:
    return Case(surface, name, lambda folder: (name, call)[:1], lambda _: call(), words, error)


CASES = [
    *(_case("batch", name, *parts, DataError) for name, parts in BATCHES.items()),
    *(_case("settings", name, *parts, ConfigError) for name, parts in SETTINGS.items()),
    *(
        _case("written row", name, _written(lambda value=value: value), "row 1 cannot", DataError)
        for name, value in WRITTEN.items()
    ),
    _case("written row", "100,000 lists", _written(_nested), "row 1 cannot", DataError),
    _case("written row", "a list in itself", _written(_circle), "row 1 cannot", DataError),
]
