"""One sample of a batch as a batch of its own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from influcoder_lightning.capture.batches import TokenBatch
from influcoder_lightning.capture.packing import SEGMENT_KEY
from influcoder_lightning.errors import DataError


def one_sample(batch: TokenBatch, index: int) -> TokenBatch:
    """Sample ``index`` of ``batch``, read; of a packed batch the sample's own tokens.

    Raises:
        DataError: a tensor has another number of rows than the batch, so that it is not known
            which of them are the sample's.
    """
    segments, given = batch.segments, batch.given_ids
    labels = batch.labels[index : index + 1]
    fields: dict[str | int, object]
    if segments is None:
        fields = {name: _field(name, x, index, len(batch)) for name, x in batch.fields.items()}
    else:
        length = int(segments.valid[index].sum())
        labels = labels[:, : length + batch.labels.shape[1] - segments.index.shape[1]]
        fields = {
            name: segments.unpacked(x)[index : index + 1, :length]
            for name, x in batch.fields.items()
            if isinstance(x, Tensor) and x.shape == segments.segment_ids.shape
        }
        fields.pop(SEGMENT_KEY, None)
    ids = None if given is None else [batch.ids()[index]]
    return TokenBatch(fields, labels, fields, None, 1, ids, batch.sample_id_key)


def one_source(batch: TokenBatch, index: int) -> TokenBatch:
    """Sample ``index``, its ``source`` a batch of the kind that the user's own code knows.

    Raises:
        DataError: as `one_sample`, and for packed batches.
    """
    if batch.segments is not None:
        raise DataError("a sample of a packed batch is no batch of the same kind.")
    labels, source = batch.labels[index : index + 1], _taken(batch.source, index, len(batch))
    return TokenBatch({}, labels, source, None, 1, None, batch.sample_id_key)


def _field(name: str | int, value: object, index: int, size: int) -> object:
    if name == "position_ids" and isinstance(value, Tensor) and value.dim() == 3:
        return value[:, index : index + 1]  # one row of positions for each axis of an image
    return _taken(value, index, size)


def _taken(value: object, index: int, size: int) -> object:
    """``value`` with every tensor and list of ``size`` rows cut down to row ``index``."""
    if isinstance(value, Tensor):
        if value.dim() == 0 or len(value) == 1:
            return value
        if len(value) != size:
            raise DataError(f"a tensor of {len(value)} rows in a batch of {size} samples.")
        return value[index : index + 1]
    if isinstance(value, Mapping):
        return {name: _taken(x, index, size) for name, x in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _with_ids(copy.copy(value), vars(value), index, size)
    if isinstance(value, list | tuple):
        return _sequence(value, index, size)
    return value


def _sequence(value: Any, index: int, size: int) -> object:
    if hasattr(value, "_fields"):
        items = [_taken(x, index, size) for x in value]
        named = type(value)(*items)
        return _with_ids(named, getattr(value, "__dict__", {}), index, size)
    if hasattr(value, "sample_ids"):  # a batch that carries its ids
        batch = type(value)([_taken(x, index, size) for x in value])
        return _with_ids(batch, vars(value), index, size)
    if len(value) == size and not any(isinstance(x, Tensor) and x.dim() > 1 for x in value):
        return value[index : index + 1]
    return type(value)(_taken(x, index, size) for x in value)


def _with_ids(batch: object, attributes: Mapping[str, object], index: int, size: int) -> object:
    for name, value in attributes.items():
        object.__setattr__(batch, name, _taken(value, index, size))
    return batch
