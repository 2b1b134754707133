"""The queries in one order, whatever order their loader gives them in.

Windows compare a query with itself at another time, so every take must hold the same queries in
the same order. A loader may shuffle: its queries are then told by their ids, or by their tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TypedDict

import torch
from torch import Tensor

from influcoder_lightning.capture.batches import TokenBatch
from influcoder_lightning.capture.losses import IGNORE_INDEX
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.errors import DataError


def query_keys(batch: TokenBatch) -> list[str]:
    """What tells each query of a batch from the others: its tokens and labels, without padding."""
    tokens, mask = batch.fields.get("input_ids"), batch.fields.get("attention_mask")
    labels = batch.labels
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or batch.segments is not None:
        return [_digest(row[row != IGNORE_INDEX]) for row in labels]
    if isinstance(mask, Tensor) and mask.shape == tokens.shape:
        used = mask.bool()
    else:  # up to the last label: what comes after it has no part in the loss
        places = torch.arange(labels.shape[1], device=labels.device)
        last = ((labels != IGNORE_INDEX) * places).amax(1)
        used = places[: tokens.shape[1]] <= last[:, None]
    wide = labels[:, : tokens.shape[1]]
    pairs = zip(tokens, wide, used, strict=True)
    return [_digest(torch.stack([row[keep], own[keep]])) for row, own, keep in pairs]


class OrderState(TypedDict):
    """A `QueryOrder` as JSON values."""

    ids: list[int | str]
    keys: list[str]
    carried: bool


class QueryOrder:
    """The order of the first take, in which `aligned` puts those that follow.

    Args:
        state: what `state` gave, to go on from there.
    """

    def __init__(self, state: OrderState | None = None) -> None:
        self._ids: list[int | str] | None = None if state is None else list(state["ids"])
        self._keys: list[str] = [] if state is None else list(state["keys"])
        self._carried = state is not None and bool(state["carried"])

    def state(self) -> OrderState | None:
        """The order as JSON values; None before the first take."""
        if self._ids is None:
            return None
        return {"ids": self._ids, "keys": self._keys, "carried": self._carried}

    def aligned(self, rows: RowBatch) -> RowBatch:
        """These queries in the order of the first take.

        Raises:
            DataError: they are other queries.
        """
        keys, carried = list(rows.keys or ()), rows.carries_ids
        if self._ids is None:
            self._ids, self._keys, self._carried = list(rows.ids), keys, carried
            return rows
        first, found = (
            self._names(self._ids, self._keys, self._carried and carried),
            self._names(rows.ids, keys, self._carried and carried),
        )
        if first == found:
            return replace(rows, ids=self._ids)
        if Counter(first) != Counter(found):
            raise DataError(_other_queries(first, found))
        places: defaultdict[Hashable, list[int]] = defaultdict(list)
        for place, name in enumerate(found):
            places[name].append(place)
        order = torch.tensor([places[name].pop(0) for name in first])
        return replace(rows.taken(order.tolist()), ids=self._ids)

    @staticmethod
    def _names(ids: Sequence[int | str], keys: Sequence[str], carried: bool) -> list[Hashable]:
        """By what queries are matched: ids, where all have one of their own; else tokens, too."""
        if carried and len(set(ids)) == len(ids):
            return list(ids)
        return list(zip(ids, keys, strict=True)) if carried else list(keys)


def _digest(values: Tensor) -> str:
    return sha256(values.to("cpu", torch.int64).contiguous().numpy().tobytes()).hexdigest()[:32]


def _other_queries(first: Sequence[Hashable], found: Sequence[Hashable]) -> str:
    missing = sum((Counter(first) - Counter(found)).values())
    return (
        f"the queries are read at the start of every window and must be the same: this time there "
        f"are {len(found)}, and {missing} of the {len(first)} of the first time are not among "
        "them. Give `query_dataloader` without sampling, augmentation or dropping; if their "
        "tokens change, let the batches carry ids (with_sample_ids)."
    )
