"""A data loader that goes on where it was, in one process or in several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset

from influcoder_lightning.processes import Processes


class EpochLoader:
    """Batches of a data set, shuffled anew for each epoch; its state goes into checkpoints.

    The order depends on seed and epoch alone, so a run that is resumed in the middle of an epoch
    sees the batches that it would have seen. (Lightning starts a plain ``DataLoader`` at its first
    item again.)

    Processes that train together take the batches of that order in turn. What is left at the end of
    an epoch is shared out evenly; where it cannot be, the first samples of the order are repeated,
    at most one for each process. `n_before_padding` tells them, and they are not valued.

    Args:
        dataset: sized, with items for ``collate``.
        batch_size: samples per batch; the last of an epoch may be short.
        collate: items -> batch.
        seed: of the order.

    Example::

        loader = EpochLoader(with_sample_ids(dataset), 8, collate_with_sample_ids(), seed=0)
        trainer.fit(module, loader, ckpt_path="last")
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        collate: Callable[[list[Any]], object],
        seed: int,
    ) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self._n: int = len(dataset)  # type: ignore[arg-type]  # sized
        self._collate, self._seed = collate, seed
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        return math.ceil(self._n / (self.batch_size * Processes().size))

    def __iter__(self) -> Iterator[object]:
        if self._batch >= len(self):  # Lightning counts batches and never asks for one more
            self._epoch, self._batch = self._epoch + 1, 0
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._n, generator=generator).tolist()
        while self._batch < len(self):
            start, count = self._own(self._batch)
            self._batch += 1  # a checkpoint is saved while this batch is out
            places = (order[at % self._n] for at in range(start, start + count))
            yield self._collate([self.dataset[i] for i in places])

    def n_before_padding(self) -> int | None:
        """How many samples of an epoch this process sees before the repeated ones; None: all."""
        start, count = self._own(len(self) - 1)
        repeated = max(0, start + count - max(start, self._n))
        if not repeated:
            return None
        return (len(self) - 1) * self.batch_size + count - repeated

    def _own(self, number: int) -> tuple[int, int]:
        """Where this process's share of the epoch's ``number``-th batches starts, and its size."""
        processes = Processes()
        start = number * self.batch_size * processes.size
        left = min(self._n - start, self.batch_size * processes.size)
        each = math.ceil(left / processes.size)
        return start + processes.rank * each, each

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches of it that were given out."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self._epoch, self._batch = state["epoch"], state["batch"]
