"""The processes of one run: what they tell each other. Alone, nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Processes:
    """Collectives over all processes of the training run; every process must call each of them.

    Uses the process group that the Trainer's strategy has set up (gloo, NCCL).
    """

    def __init__(self) -> None:
        group = torch.distributed
        many = group.is_available() and group.is_initialized()
        self.rank: int = group.get_rank() if many else 0
        self.size: int = group.get_world_size() if many else 1

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes for all."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """The first process's value."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            torch.distributed.all_gather_object(values, value)
        return values

    def gather_to_first(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; empty in all but the first."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size if self.first else []
            torch.distributed.gather_object(value, values or None, dst=0)
        return values

    def once(self, action: Callable[[], T]) -> T:
        """Run ``action`` in the first process; every process gets its result, or its error."""
        if self.size == 1:
            return action()
        outcome: tuple[Any, Exception | None] = (None, None)
        if self.first:
            try:
                outcome = (action(), None)
            except Exception as error:
                outcome = (None, error)
        value, raised = self.broadcast(outcome)
        if raised is not None:
            raise raised
        return value  # as the action's, in every process


_expected = 1


def expected() -> int:
    """How many processes train together in this run, also before they have found each other."""
    return _expected


@contextmanager
def expecting(size: int) -> Iterator[None]:
    """Let `expected` say ``size``."""
    global _expected
    _expected = size
    try:
        yield
    finally:
        _expected = 1
