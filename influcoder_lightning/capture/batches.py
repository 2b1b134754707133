"""A batch as the rest of the package reads it: what the model gets, token labels, sample ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from influcoder_lightning.capture.losses import IGNORE_INDEX
from influcoder_lightning.capture.packing import Segments
from influcoder_lightning.data.sample_ids import batch_labels, batch_sample_ids
from influcoder_lightning.errors import DataError
from influcoder_lightning.ids import SampleId, checked_ids

Fields = Mapping[str | int, object]
"""Elements of a batch by their names; those of a tuple that have none by their places."""
ReadBatch = Callable[[Any], tuple[Any, Any, Any]]
"""``batch -> (inputs, labels, ids)``; see `InfluenceCallback`."""


@dataclass(frozen=True)
class TokenBatch:
    """One batch, read.

    Attributes:
        fields: what the batch holds beside labels and ids, by name. Elements of a tuple or list
            that have no name yet are under their index.
        labels: int64 [S, L], one row per sample, -100 where there is no loss, unshifted: the target
            of position t is ``labels[:, t + 1]``. Labels that came shifted have a column in front,
            so that L is one more than the number of tokens.
        source: the batch itself.
        segments: where the samples lie in a packed batch, else None.
        n_rows: rows of the batch; a packed row holds several samples.
        given_ids: what the batch says of its samples' ids, None if nothing.
        sample_id_key: where a dict batch has them.
    """

    fields: Fields
    labels: Tensor
    source: object
    segments: Segments | None
    n_rows: int
    given_ids: object
    sample_id_key: str

    def __len__(self) -> int:
        return len(self.labels)

    def prompt_tokens(self) -> Tensor:
        """[S] int64: tokens in front of each sample's first response token, without padding.

        Padding is what a mask [B, T] of the batch says; without one all positions count.
        """
        response = self.labels[:, 1:] != IGNORE_INDEX
        first = pad(response, (0, 1), value=True).long().argmax(1) + 1  # all, without a response
        before = torch.arange(self.labels.shape[1], device=first.device) < first[:, None]
        mask = self.fields.get("attention_mask")
        if self.segments is None and isinstance(mask, Tensor) and mask.dim() == 2:
            before = before[:, : mask.shape[1]] & (mask != 0)
        return before.sum(1)

    @property
    def carries_ids(self) -> bool:
        """Whether the batch says which samples it holds."""
        return self.given_ids is not None

    def ids(self) -> list[SampleId]:
        """S sample ids.

        Raises:
            DataError: there are none, or not one per sample.
        """
        if not self.carries_ids:
            batch_sample_ids(self.source, self.sample_id_key)  # says what is missing
            raise DataError(f"`read_batch` gave no ids, and the batch has no {self.sample_id_key}.")
        ids = self.given_ids
        if self.segments is not None:
            ids = self.segments.flat_ids(ids)
        ids = checked_ids(ids)
        if len(ids) != len(self):
            raise DataError(
                f"the batch carries {len(ids)} sample ids but {len(self)} rows: every row needs "
                "one id."
            )
        return ids


@dataclass(frozen=True)
class BatchReader:
    """How batches are read.

    Args:
        sample_id_key: key of the ids in a dict batch.
        labels_key: key of the labels in a dict batch; in a tuple or list an index, else the last.
        labels_shifted: the label at position t is the target of position t, not of t - 1.
        read_batch: ``batch -> (inputs, labels, ids)``, in place of the keys: keyword arguments of
            the model's forward, labels [B, T], B ids (None: those the batch carries).
    """

    sample_id_key: str = "sample_id"
    labels_key: str | int = "labels"
    labels_shifted: bool = False
    read_batch: ReadBatch | None = None

    def read(self, batch: object) -> TokenBatch:
        """The parts of ``batch``.

        Raises:
            DataError: no labels, labels of another shape than the tokens, wrong segments, or
                `read_batch` did not return what it should.
        """
        fields, labels, ids = self._parts(batch)
        segments, n_rows = Segments.read(fields), len(labels)
        tokens = fields.get("input_ids") if segments is None else None
        if isinstance(tokens, Tensor) and tokens.dim() == 2 and tokens.shape != labels.shape:
            raise DataError(
                f"labels of shape {tuple(labels.shape)} for tokens of shape "
                f"{tuple(tokens.shape)}: influence is defined for causal LMs with a label per "
                "token, not for classifiers or encoder-decoders."
            )
        if segments is not None:
            labels = segments.labels(labels, shifted=self.labels_shifted)
        if self.labels_shifted:
            labels = pad(labels, (1, 0), value=IGNORE_INDEX)
        return TokenBatch(fields, labels, batch, segments, n_rows, ids, self.sample_id_key)

    def n_rows(self, batch: object) -> int:
        """Rows of ``batch``, that is items of its data set."""
        return len(self._parts(batch)[1])

    def _parts(self, batch: Any) -> tuple[Fields, Tensor, object]:
        if self.read_batch is not None:
            return self._own_parts(batch, self.read_batch)
        labels, key = batch_labels(batch, self.labels_key), self.labels_key
        if isinstance(batch, Mapping):
            fields = {k: v for k, v in batch.items() if k not in (key, self.sample_id_key)}
            return fields, labels, batch.get(self.sample_id_key)
        place = (key if isinstance(key, int) else -1) % len(batch)
        others: dict[str | int, object] = {i: x for i, x in enumerate(batch) if i != place}
        first = next(iter(others), None)
        if first is not None and isinstance(others[first], Tensor):
            others = {"input_ids": others.pop(first), **others}
        return others, labels, getattr(batch, "sample_ids", None)

    def _own_parts(self, batch: object, read: ReadBatch) -> tuple[Fields, Tensor, object]:
        found = read(batch)
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise DataError(
                f"`read_batch` returned a {type(found).__name__}, not (inputs, labels, ids)."
            )
        inputs, labels, ids = found
        if not isinstance(inputs, Mapping):
            raise DataError(
                f"the inputs that `read_batch` returned are a {type(inputs).__name__}: they must "
                "be a dict of keyword arguments of the model's forward."
            )
        if ids is None:
            if isinstance(batch, Mapping) and self.sample_id_key in batch:
                ids = batch[self.sample_id_key]
            else:
                ids = getattr(batch, "sample_ids", None)
        fields = {k: v for k, v in inputs.items() if k not in ("labels", self.sample_id_key)}
        return fields, batch_labels({"labels": labels}), ids
