"""The unit that capture hands on: rows of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from influcoder_lightning.data.rows import TextRow


@dataclass
class UpdateRows:
    """The optimizer updates of B samples, see `capture.updates`.

    Attributes:
        sketch: [B, D] float32 on the CPU.
        norm: [B] float64 norms, per unit of learning rate.
    """

    sketch: Tensor
    norm: Tensor


@dataclass
class RowBatch:
    """Rows of one micro-batch, in each sample's own loss unit.

    Attributes:
        ids: B sample ids.
        sketch: [B, D] float32 on the CPU.
        norm: [B] float64 gradient norms.
        n_tokens: [B] response tokens.
        loss: [B] mean response loss, NaN where unknown.
        texts: B texts, or None.
        update: the samples' optimizer updates, where they were captured.
        columns: [B] each, what else the store keeps of these rows, by the names of
            `store.schema.ADDED_COLUMNS`.
        keys: of queries, what tells each from the others, see `query_keys`.
        carries_ids: the ids came with the samples; else they are positions.
    """

    ids: Sequence[int | str]
    sketch: Tensor
    norm: Tensor
    n_tokens: Tensor
    loss: Tensor
    texts: Sequence[TextRow] | None = None
    update: UpdateRows | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Sequence[str] | None = None
    carries_ids: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, keep: Tensor) -> RowBatch:
        """The rows where ``keep`` [B] bool is set."""
        if bool(keep.all()):
            return self
        return self.taken(keep.nonzero().flatten().tolist())

    def taken(self, places: Sequence[int]) -> RowBatch:
        """The rows at these places, in this order."""
        index, update = torch.tensor(places, dtype=torch.long), self.update
        return RowBatch(
            [self.ids[i] for i in places],
            self.sketch[index],
            self.norm[index],
            self.n_tokens[index],
            self.loss[index],
            None if self.texts is None else [self.texts[i] for i in places],
            None if update is None else UpdateRows(update.sketch[index], update.norm[index]),
            {name: values[index] for name, values in self.columns.items()},
            None if self.keys is None else [self.keys[i] for i in places],
            self.carries_ids,
        )

    @classmethod
    def joined(cls, parts: Sequence[RowBatch]) -> RowBatch:
        """Several batches of rows as one; without updates and other columns."""
        texts = [part.texts for part in parts]
        return cls(
            [i for part in parts for i in part.ids],
            torch.cat([part.sketch for part in parts]),
            torch.cat([part.norm for part in parts]),
            torch.cat([part.n_tokens for part in parts]),
            torch.cat([part.loss for part in parts]),
            None if None in texts else [t for some in texts for t in some or ()],
            keys=[key for part in parts for key in part.keys or ()],
            carries_ids=all(part.carries_ids for part in parts),
        )
