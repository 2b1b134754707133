"""Batches on the device of a model."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from lightning_utilities.core.apply_func import apply_to_collection


@runtime_checkable
class _Movable(Protocol):
    def to(self, device: torch.device) -> Any: ...


def moved(batch: Any, device: torch.device | str) -> Any:
    """The batch with all that has a ``to`` (tensors, batches of libraries) on ``device``.

    Lists, tuples, mappings and dataclasses keep their kind; nothing else is touched.
    """

    def move(item: Any) -> Any:
        there = item.to(device)
        return item if there is None else there  # some move in place

    return apply_to_collection(batch, _Movable, move)
