"""Scores of a whole pool by one process or several, each with a `Trainer.predict` of its own.

The processes share nothing but the folder: each takes every n-th of the parts that are missing and
seals them. There is no process group, so that one that is killed leaves no other waiting.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch.multiprocessing import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)
from torch.utils.data import DataLoader

from influcoder_lightning.data.row_files import Source
from influcoder_lightning.data.rows import RowSource
from influcoder_lightning.encoder.text_tower import TextTower
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import sha256
from influcoder_lightning.scoring.predict import PartRows, PartWriter, TextScorer
from influcoder_lightning.scoring.sealed_parts import ScoreParts

Show = Callable[[int], object]


@dataclass(frozen=True)
class Scoring:
    """What each process is told; can be pickled.

    Attributes:
        source: the pool, as `load_rows` takes it.
        tower: the folder that holds ``text_head/``.
        queries: unit codes [M, d] float32.
        parts: where the scores go.
        batch_size: rows that are encoded at a time.
    """

    source: Source | RowSource
    tower: Path
    queries: NDArray[np.float32]
    parts: ScoreParts
    batch_size: int

    def settings(self, fingerprint: str) -> dict[str, object]:
        """What the scores depend on: the rows, by their fingerprint, the tower and the queries."""
        tower = hashlib.sha256()
        for name in ("text_head", "text"):
            for path in sorted((self.tower / name).rglob("*")):
                if path.is_file():
                    tower.update(f"{path.relative_to(self.tower)} {sha256(path)}\n".encode())
        queries = hashlib.sha256(self.queries.tobytes())
        return {
            "pool": fingerprint,
            "text_tower": tower.hexdigest(),
            "queries": queries.hexdigest(),
        }

    def run(self, processes: int, show: Show = lambda rows: None) -> None:
        """Score what is missing.

        Args:
            processes: that work side by side; with 1 it is done in this one.
            show: told how many rows are sealed.

        Raises:
            ConfigError: one of several processes failed, or was ended from outside.
        """
        missing = self.parts.missing()
        processes = min(processes, len(missing))
        if processes == 1:
            self.predict(missing, show)
        elif processes:
            self._spread(missing, processes, show)

    def predict(self, own: Sequence[int], show: Show = lambda rows: None) -> None:
        """Score some parts in this process."""
        with warnings.catch_warnings():
            # The batches carry their places themselves; one worker reads faster than one scores.
            for remark in ("Couldn't infer the batch indices", ".*does not have many workers"):
                warnings.filterwarnings("ignore", message=remark)
            trainer = Trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                callbacks=[PartWriter(self.parts, show)],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            rows = PartRows(self.source, own, self.parts.part_rows, self.batch_size)
            trainer.predict(
                TextScorer(TextTower.load(self.tower), self.queries),
                DataLoader(rows, batch_size=None),
                return_predictions=False,
            )

    def _spread(self, missing: Sequence[int], processes: int, show: Show) -> None:
        shares = [missing[process::processes] for process in range(processes)]
        threads = max(1, (os.cpu_count() or 1) // processes)
        # Spawned, not forked: the threads of torch and BLAS do not survive a fork. Where this
        # process is killed, torch has the system interrupt the others.
        context = start_processes(
            _work, (self, shares, threads), processes, join=False, start_method="spawn"
        )
        assert context is not None
        try:
            while not context.join(timeout=0.5):
                show(self.parts.n_sealed_rows())
        except ProcessRaisedException as error:
            last = str(error).strip().splitlines()[-1]
            raise ConfigError(f"a scoring process failed: {last:.600}. {_GO_ON}") from error
        except ProcessExitedException as error:
            raise ConfigError(
                f"a scoring process was ended from outside ({error}), perhaps for its memory; "
                f"score.processes says how many there are. {_GO_ON}"
            ) from error


_GO_ON = "What was sealed is kept: the same command with resume=true goes on behind it."


def _work(process: int, scoring: Scoring, shares: Sequence[Sequence[int]], threads: int) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", DeprecationWarning)  # of libraries among themselves
    if "OMP_NUM_THREADS" not in os.environ:  # else BLAS and torch have read it
        torch.set_num_threads(threads)
        threadpool_limits(threads)
    scoring.predict(shares[process])
