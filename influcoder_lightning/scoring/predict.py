"""The three parts of a `Trainer.predict` over rows of text: what it reads, does and writes.

Trainer(callbacks=[PartWriter(parts)]).predict(
    TextScorer(tower, queries),
    DataLoader(PartRows(source, parts.missing(), parts.part_rows, 256), batch_size=None),
    return_predictions=False,
)
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.exceptions import SIGTERMException
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from influcoder_lightning.data.formats import Row
from influcoder_lightning.data.row_files import Source
from influcoder_lightning.data.rows import RowSource, unread_rows
from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import first_few
from influcoder_lightning.influence.methods.encoder import score_texts
from influcoder_lightning.influence.request import TextEncoder
from influcoder_lightning.scoring.sealed_parts import Line, ScoreParts


class Batch(NamedTuple):
    """Rows of one part that follow one another."""

    part: int
    rows: list[Row]


class PartRows(IterableDataset[Batch]):
    """Batches of some parts of a pool; the rows of all others are passed over unread.

    Args:
        source: the pool, as `load_rows` takes it.
        own: numbers of the parts; loader workers take them in turn.
        part_rows: rows in a part.
        batch_size: rows in a batch, fewer at the end of a part.
    """

    def __init__(
        self, source: Source | RowSource, own: Sequence[int], part_rows: int, batch_size: int
    ) -> None:
        self.source, self.own = source, own
        self.part_rows, self.batch_size = part_rows, batch_size

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        own = set(self.own if worker is None else self.own[worker.id :: worker.num_workers])
        last = max(own, default=-1)
        rows: list[Row] = []
        part = 0
        for index, read in enumerate(unread_rows(self.source)):
            if rows and (len(rows) == self.batch_size or index % self.part_rows == 0):
                yield Batch(part, rows)
                rows = []
            part = index // self.part_rows
            if part > last:
                return
            if part in own:
                rows.append(read())
        if rows:
            yield Batch(part, rows)


class TextScorer(LightningModule):
    """Rows of text -> their mean expected cosine with the queries, as the method `encoder`.

    Args:
        tower: encodes text.
        queries: unit codes [M, d] of the queries.
    """

    def __init__(self, tower: TextEncoder, queries: NDArray[np.float32]) -> None:
        super().__init__()
        self.tower, self.queries = tower, queries

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Line]:
        """Id, score and confidence of each row.

        Raises:
            RankingError: a score that is not finite.
        """
        cosines, confidence = score_texts(self.tower, self.queries, batch.rows)
        scores = cosines.mean(axis=1, dtype=np.float64)
        if not np.isfinite(scores).all():
            bad = [batch.rows[place] for place in np.flatnonzero(~np.isfinite(scores))]
            raise RankingError(
                f"{len(bad)} samples get a score that is not finite: "
                f"{first_few(row.get('id', row['prompt'][:60]) for row in bad)}; "
                "the encoder or the query codes are damaged"
            )
        ids = [row.get("id") for row in batch.rows]
        return list(zip(ids, scores.tolist(), confidence.tolist(), strict=True))

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """The batch as it is: text has no device, and Lightning would look into every string."""
        return batch


class PartWriter(BasePredictionWriter):
    """Seals each part with its last row; what is open when a process ends is scored again.

    Args:
        parts: of the pool.
        show: told how many rows are sealed, whenever there are more.
    """

    def __init__(
        self, parts: ScoreParts, show: Callable[[int], object] = lambda rows: None
    ) -> None:
        super().__init__("batch")
        self.parts, self._show = parts, show
        self._open: dict[int, list[Line]] = {}

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: list[Line],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Take in the scores of a batch."""
        lines = self._open.setdefault(batch.part, [])
        lines += prediction
        if len(lines) == self.parts.size(batch.part):
            self.parts.seal(batch.part, self._open.pop(batch.part))
            self._show(self.parts.n_sealed_rows())
        if trainer.received_sigterm:  # Lightning takes the signal, and heeds it in a fit only
            raise SIGTERMException(128 + signal.SIGTERM)
