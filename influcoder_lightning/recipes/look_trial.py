"""What a valuation would take, measured on a few steps of it."""

from __future__ import annotations

import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import Subset

from influcoder_lightning.finetune.trainers import PLACE
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes.valuing import value_in_training
from influcoder_lightning.report.press.units import duration, in_bytes
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.split import Split
from influcoder_lightning.store import schema

_STEPS, _WARM = 12, 2  # of the trial, at most; and those of them that are not counted
_ENOUGH = 20.0  # seconds of steps after which a large model has shown enough
_QUERIES = 16  # at most, of the trial


@dataclass(frozen=True)
class Estimate:
    """What a valuation takes, from a few steps of it.

    Attributes:
        steps: of the whole valuation.
        seconds: all of it, without loading the model.
        step_seconds: of one of them.
        memory: bytes that the process (or the GPU) had at the most in the trial, in which are the
            longest row of the pool and the shortest.
        disk: bytes of the store; twice that while it is merged.
    """

    steps: int
    seconds: float
    step_seconds: float
    memory: int
    disk: int

    def words(self) -> str:
        """The estimate as a line."""
        return (
            f"{self.steps:,} steps in about {duration(self.seconds)} (loading and the report come "
            f"on top), {in_bytes(self.memory)} of memory, {in_bytes(self.disk)} on disk (twice "
            "that while the store is merged)"
        )


def estimate(materials: Materials) -> Estimate:
    """Value a few rows in a folder that is thrown away, and go on from that to the whole pool.

    Takes a dozen steps, of a large model three or those of some twenty seconds.

    Args:
        materials: of the valuation to come. The trial runs on one device.
    """
    cfg = materials.cfg.copy()
    cfg.mode, cfg.resume = "training", False
    cfg.train.steps, cfg.train.checkpoint_every_n_steps = _STEPS, None
    cfg.put("logger", {})
    for name in PLACE[1:]:  # on one device
        cfg.trainer[name] = None
    cfg.train.log_csv = False
    trial = Materials(cfg, "look")
    n_rows = _STEPS * cfg.train.batch_size * cfg.train.accumulate
    trial.__dict__["pool"] = _part(materials.pool, _spread(materials.pool, n_rows))
    query = materials.query
    n_queries = 0 if query is None else min(len(query), _QUERIES)
    trial.__dict__["query"] = None if query is None else _part(query, range(n_queries))
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        begun = perf_counter()
        with _silent():
            store = value_in_training(trial, Path(folder) / "influence", [clock])
        seconds = perf_counter() - begun - clock.before
        disk = _disk(store, materials)
    counted = clock.steps[_WARM:] or clock.steps
    step = sum(counted) / len(counted) * cfg.train.accumulate
    around = max(0.0, seconds - sum(clock.steps)) / len(store.windows)  # queries, merging
    steps = materials.valuation_steps()
    every = cfg.influence.refresh_queries_every_n_steps
    windows = math.ceil(steps / (every or _steps_of_epoch(materials)))
    share = 1.0 if query is None else len(query) / max(1, n_queries)
    return Estimate(steps, step * steps + around * share * windows, step, peak_memory(), disk)


@contextmanager
def _silent() -> Iterator[None]:
    """No lines of stages that would be taken for those of a run."""
    lines = logging.getLogger("influcoder_lightning.run.stages")
    before = lines.level
    lines.setLevel(logging.WARNING)
    try:
        yield
    finally:
        lines.setLevel(before)


class _Clock(Callback):
    """Seconds of each step, and of what came before the first: loading."""

    def __init__(self) -> None:
        self._begun = perf_counter()
        self.before, self.steps = 0.0, list[float]()

    def on_train_start(self, *_: Any) -> None:
        """The model is there."""
        self.before = perf_counter() - self._begun

    def on_train_batch_start(self, *_: Any) -> None:
        """A step begins; the one before has ended."""
        self._last = perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """A micro-batch ends."""
        self.steps.append(perf_counter() - self._last)
        if len(self.steps) > _WARM and sum(self.steps) > _ENOUGH:
            trainer.should_stop = True


def _part(split: Split, places: Sequence[int]) -> Split:
    return replace(
        split,
        rows=[split.rows[at] for at in places],
        ids=[split.ids[at] for at in places],
        dataset=Subset(split.dataset, list(places)),
        places=[split.places[at] for at in places],
        n_trained=[split.n_trained[at] for at in places],
        conversations=None,
        conversation_rows=None,
    )


def _spread(pool: Split, n: int) -> list[int]:
    """Places of rows of all lengths, the longest among them."""
    lengths = [len(row["prompt"]) + len(row["response"]) for row in pool.rows]
    order = sorted(range(len(pool)), key=lengths.__getitem__)
    n = min(n, len(order))
    return [order[round(at * (len(order) - 1) / max(1, n - 1))] for at in range(n)]


def _steps_of_epoch(materials: Materials) -> int:
    train = materials.cfg.train
    return max(1, math.ceil(len(materials.pool) / (train.batch_size * train.accumulate)))


def _disk(store: InfluenceStore, materials: Materials) -> int:
    """Bytes of the store of the whole pool: what a row takes, and all else."""
    import h5py

    sizes = list[int]()
    with h5py.File(store.folder / schema.FILE_NAME, "r") as file:
        n_rows = store.n_rows

        def add(_: str, found: Any) -> None:
            if isinstance(found, h5py.Dataset) and found.shape and found.shape[0] == n_rows:
                sizes.append(found.dtype.itemsize * int(math.prod(found.shape[1:])))

        file.visititems(add)
    total = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    train = materials.cfg.train
    rows = materials.valuation_steps() * train.batch_size * train.accumulate
    return max(0, total - n_rows * sum(sizes)) + rows * sum(sizes)


def peak_memory() -> int:
    """Bytes that this process (or the GPU) has had at the most."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kib) * (1 if sys.platform == "darwin" else 1024)
