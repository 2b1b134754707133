"""A data loader that goes on where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.processes import Processes


class EpochLoader:
    """Batches of a data set, shuffled anew for each epoch; its state goes into checkpoints.

    The order depends on seed and epoch alone, so a run that is resumed in the middle of an epoch
    sees the batches that it would have seen. (Lightning starts a plain ``DataLoader`` at its first
    item again.)

    Args:
        dataset: sized, with items for ``collate``.
        batch_size: samples per batch; the last of an epoch may be short.
        collate: items -> batch.
        seed: of the order.

    Raises:
        ConfigError: when it is read in one of several processes, which would all get the same.

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
        self._collate, self._seed = collate, seed
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)  # type: ignore[arg-type]  # sized

    def __iter__(self) -> Iterator[object]:
        if Processes().size > 1:
            raise ConfigError(
                "EpochLoader gives every process the same batches. With several processes use a "
                "DataLoader; Lightning gives it a distributed sampler."
            )
        if self._batch >= len(self):  # Lightning counts batches and never asks for one more
            self._epoch, self._batch = self._epoch + 1, 0
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()  # type: ignore[arg-type]
        while self._batch < len(self):
            start = self._batch * self.batch_size
            self._batch += 1  # a checkpoint is saved while this batch is out
            items = [self.dataset[i] for i in order[start : start + self.batch_size]]
            yield self._collate(items)

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches of it that were given out."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self._epoch, self._batch = state["epoch"], state["batch"]
