"""Rows that the other processes hand to the first one, whose towers learn from all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.cotraining import CoTraining
from influcoder_lightning.ids import SampleId
from influcoder_lightning.processes import Processes

_Rows = tuple[Sequence[SampleId], Tensor, int, Sequence[TextRow] | None]


class HandedRows:
    """The newest rows of this process that the first one has not seen; bounded.

    Args:
        processes: of the run.
        capacity: rows that the first process keeps, of all of them.
    """

    def __init__(self, processes: Processes, capacity: int) -> None:
        self._processes = processes
        self._most = max(1, capacity // processes.size)
        self._waiting: deque[_Rows] = deque()
        self._count = 0

    @property
    def capacity(self) -> int:
        """Rows of one process."""
        return self._most

    def add(
        self,
        ids: Sequence[SampleId],
        sketches: Tensor,
        window: int,
        texts: Sequence[TextRow] | None,
    ) -> None:
        """Keep rows [n, D] for the first process; the oldest make room."""
        if self._processes.first:
            return
        self._waiting.append((ids, sketches, window, texts))
        self._count += len(ids)
        while self._count > self._most and len(self._waiting) > 1:
            self._count -= len(self._waiting.popleft()[0])

    def hand_over(self, cotraining: CoTraining | None) -> None:
        """Let the first process learn from what the others kept; all processes call it."""
        if self._processes.size == 1:
            return
        everyone = self._processes.gather_to_first(list(self._waiting))
        self._waiting.clear()
        self._count = 0
        if cotraining is not None:
            for batches in everyone[1:]:
                for batch in batches:
                    cotraining.observe(*batch)
