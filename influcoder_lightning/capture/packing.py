"""Packed batches: several samples in one row, each seen by itself.

A packed batch names its samples by ``segment_ids`` [B, T] (0 is padding; 1, 2, ... are the samples
of the row in order) and carries one sample id per segment, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influcoder_lightning.capture.losses import IGNORE_INDEX
from influcoder_lightning.errors import DataError

SEGMENT_KEY = "segment_ids"
_LEAK = "the batch is packed without block-diagonal attention: "
_WAY_OUT = (
    " Give the model a 4-D attention mask [B, 1, T, T] that stays within segments, or position_ids "
    "that start at 0 in each segment with no attention_mask and use_cache=False; or use one sample "
    "per row."
)
_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass
class Segments:
    """Where the samples of a packed batch lie.

    Attributes:
        segment_ids: [B, T] as in the batch.
        index: [S, L] positions in the flattened [B * T] tokens, one row per segment, row-major.
        valid: [S, L] bool, False behind the end of a segment that is shorter than the longest.
    """

    segment_ids: Tensor
    index: Tensor
    valid: Tensor

    @classmethod
    def read(cls, batch: object) -> Segments | None:
        """The segments of ``batch``; None if it is not packed.

        Raises:
            DataError: ids that are no integers [B, T], or not 1, 2, ... without gaps in each row.
        """
        if not isinstance(batch, Mapping) or batch.get(SEGMENT_KEY) is None:
            return None
        ids = batch[SEGMENT_KEY]
        if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
            raise DataError(f"`{SEGMENT_KEY}` must be an integer tensor [batch, tokens].")
        spans: list[Tensor] = []
        for number, row in enumerate(ids):
            values, counts = torch.unique_consecutive(row, return_counts=True)
            starts = counts.cumsum(0) - counts
            used = values != 0
            if values[used].tolist() != list(range(1, int(used.sum()) + 1)):
                raise DataError(
                    f"row {number} of `{SEGMENT_KEY}` does not number its samples 1, 2, ... in "
                    f"order, each in one piece (it has {values.tolist()[:9]}); 0 is padding."
                )
            for start, count in zip(starts[used].tolist(), counts[used].tolist(), strict=True):
                first = number * ids.shape[1] + start
                spans.append(torch.arange(first, first + count, device=ids.device))
        if not spans:
            raise DataError(f"`{SEGMENT_KEY}` holds no sample: every token is padding (0).")
        index = torch.nn.utils.rnn.pad_sequence(spans, batch_first=True, padding_value=-1)
        return cls(ids, index.clamp(min=0), index >= 0)

    def __len__(self) -> int:
        return len(self.index)

    def unpacked(self, tokens: Tensor, fill: float = 0) -> Tensor:
        """``tokens`` [B, T, ...] as [S, L, ...], with ``fill`` behind the end of a segment."""
        rows = tokens.flatten(0, 1)[self.index]
        outside = ~self.valid.reshape(*self.valid.shape, *[1] * (rows.dim() - 2))
        return rows.masked_fill(outside, fill)

    def labels(self, labels: Tensor, *, shifted: bool = False) -> Tensor:
        """Labels [B, T] as [S, L], each segment's own.

        Args:
            labels: of the rows.
            shifted: the label at a position is its target, not that of the position before.

        Raises:
            DataError: another shape, a label on padding, or one on the first token of a segment,
                which the causal shift would make a target of the segment before it.
        """
        if labels.shape != self.segment_ids.shape:
            raise DataError(
                f"`{SEGMENT_KEY}` has shape {tuple(self.segment_ids.shape)}, but the labels "
                f"{tuple(labels.shape)}."
            )
        ids = self.segment_ids
        target = labels[:, 1:] != IGNORE_INDEX
        if not shifted and bool((target & (ids[:, 1:] != ids[:, :-1])).any()):
            raise DataError(
                "the batch is packed, and the first token of a sample (or padding after one) has "
                "a label: the causal shift makes it a target of the sample before. Set the label "
                f"of each sample's first token, and of padding, to {IGNORE_INDEX}."
            )
        if bool((target & (ids[:, 1:] == 0)).any()):
            raise DataError(f"a padding token (0 in `{SEGMENT_KEY}`) has a label; set it to -100.")
        return self.unpacked(labels, IGNORE_INDEX)

    def flat_ids(self, ids: Any) -> object:
        """Sample ids as one list of S: given as such, or as one list per row.

        Raises:
            DataError: not one id per segment.
        """
        if isinstance(ids, list | tuple) and any(isinstance(row, list | tuple) for row in ids):
            sizes = [len(row) if isinstance(row, list | tuple) else 1 for row in ids]
            if sizes != self.segment_ids.amax(1).tolist():
                raise DataError(
                    f"the rows carry {sizes} sample ids, but {self.segment_ids.amax(1).tolist()} "
                    "samples: every segment needs one id."
                )
            ids = [value for row in ids for value in row]
        if len(ids) != len(self):
            raise DataError(
                f"the packed batch carries {len(ids)} sample ids but {len(self)} segments: every "
                "segment needs one id."
            )
        return ids

    def require_block_diagonal(self, inputs: Mapping[str, object], config: object) -> None:
        """Refuse a forward pass in which one sample could see another.

        Args:
            inputs: keyword arguments the model was called with.
            config: the model's, for its attention implementation.

        Raises:
            DataError: attention is not known to stay within segments.
        """
        if int(self.segment_ids.amax()) <= 1:
            return  # one sample per row
        other = set(getattr(config, "layer_types", None) or ()) - set(_ATTENTION)
        if other:
            raise DataError(
                f"the batch is packed, but layers of kind {', '.join(sorted(other))} carry a state "
                "from one sample to the next. Use one sample per row."
            )
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        if isinstance(mask, Tensor) and mask.dim() == 4:
            self._check_mask(mask)
        elif mask is not None:
            raise DataError(f"{_LEAK}a 2-D attention mask marks padding only.{_WAY_OUT}")
        elif not isinstance(positions, Tensor):
            raise DataError(f"{_LEAK}the model got neither a 4-D mask nor position_ids.{_WAY_OUT}")
        else:
            self._check_positions(positions, inputs, config)

    def _check_mask(self, mask: Tensor) -> None:
        ids = self.segment_ids
        same = ids[:, :, None] == ids[:, None, :]
        leaks = allowed_pairs(mask) & ~same[:, None] & (ids != 0)[:, None, :, None]
        if mask.shape[0] != len(ids) or bool(leaks.any()):
            raise DataError(f"{_LEAK}the 4-D mask lets a sample see another.{_WAY_OUT}")

    def _check_positions(
        self, positions: Tensor, inputs: Mapping[str, object], config: object
    ) -> None:
        ids = self.segment_ids
        positions = positions.expand(len(ids), -1) if positions.dim() == 2 else positions
        if positions.shape != ids.shape:
            raise DataError(f"{_LEAK}position_ids of another shape than the tokens.{_WAY_OUT}")
        step = positions[:, 1:] - positions[:, :-1]
        inside = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] != 0)
        starts = (ids[:, 1:] != ids[:, :-1]) & (ids[:, 1:] != 0)
        if bool((inside & (step != 1)).any() | (starts & (step == 1)).any()):
            raise DataError(f"{_LEAK}position_ids do not restart with each segment.{_WAY_OUT}")
        cached = inputs.get("use_cache")
        if getattr(config, "use_cache", False) if cached is None else cached:
            cause = "with use_cache=True transformers ignores restarting position_ids."
            raise DataError(_LEAK + cause + _WAY_OUT)
        kind = str(getattr(config, "_attn_implementation", None))
        if not _packs_on_positions(kind, len(ids)):
            raise DataError(
                f"{_LEAK}attention {kind!r} of this transformers version does not tell samples "
                f"apart by position_ids in a batch of {len(ids)} rows.{_WAY_OUT}"
            )


def allowed_pairs(mask: Tensor) -> Tensor:
    """Which query may see which key: bool, of a 4-D mask that is bool, additive or 0 and 1."""
    if mask.is_floating_point():
        return mask > torch.finfo(mask.dtype).min / 2
    return mask.bool()


def has_blocks(mask: Tensor) -> bool:
    """Whether a 4-D mask [B, 1, T, T] hides from some token the token right before it."""
    allowed = allowed_pairs(mask)[:, 0]
    own = allowed.diagonal(dim1=1, dim2=2)
    before = allowed.diagonal(offset=-1, dim1=1, dim2=2)
    return bool((own[:, 1:] & own[:, :-1] & ~before).any())


def _packs_on_positions(kind: str, batch_size: int) -> bool:
    from transformers import masking_utils

    if kind.startswith("flash_attention"):
        return batch_size == 1
    known = hasattr(masking_utils, "find_packed_sequence_indices")
    return known and kind in ("eager", "sdpa", "flex_attention")
