"""CountSketch: every coordinate goes, with a random sign, into one random bucket.

Charikar, Chen, Farach-Colton: Finding frequent items in data streams (2002). Inner products are
preserved in expectation with a variance of about 1/dim.

The buckets: the flattened gradient of a layer is cut into blocks of ``dim`` coordinates, and each
block goes to the buckets in order, rotated by a random shift of its own. Two coordinates of one
block never meet, two of different blocks meet with probability 1/dim, and the signs are
independent: all that the analysis asks for. A block is then added by two runs over neighbouring
numbers, some thirty times faster on a CPU than by scattered buckets, and in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.projection import Projector, layer_generator

_FEW_BLOCKS = 64  # beyond, scattering is faster than so many short runs


class CountSketch(Projector, name="countsketch"):
    """Seeded CountSketch to ``dim`` buckets shared by all layers."""

    version = 2  # 1: scattered buckets

    def __init__(self, layers: Sequence[LoraLinear], dim: int, seed: int) -> None:
        self.dim = dim
        self._seed = seed
        self._tables: dict[tuple[str, torch.device], tuple[list[int], Tensor]] = {}

    def add(self, sketch: Tensor, layer: LoraLinear, rows: Tensor) -> None:
        """See `Projector.add`."""
        shifts, signs = self._table(layer, rows.device)
        if len(shifts) > _FEW_BLOCKS:
            places = torch.arange(layer.numel, device=rows.device)
            shift = torch.tensor(shifts, device=rows.device)[places // self.dim]
            # index_add_ and not scatter_add_: it has a deterministic CUDA kernel, which
            # Trainer(deterministic=True) demands.
            sketch.index_add_(1, (places + shift) % self.dim, rows * signs)
            return
        for block, first_bucket in enumerate(shifts):
            start = block * self.dim
            stop = min(start + self.dim, layer.numel)
            turn = min(
                start + self.dim - first_bucket, stop
            )  # from here on, buckets start again at 0
            for begin, end, first in ((start, turn, first_bucket), (turn, stop, 0)):
                if begin < end:
                    part = sketch[:, first : first + end - begin]
                    part.addcmul_(rows[:, begin:end], signs[begin:end])

    def _table(self, layer: LoraLinear, device: torch.device) -> tuple[list[int], Tensor]:
        key = (layer.name, device)
        if key not in self._tables:
            generator = layer_generator(self._seed, layer.name)
            shifts = generator.integers(0, self.dim, -(-layer.numel // self.dim))
            signs = generator.integers(0, 2, layer.numel, dtype=np.int8) * np.int8(2) - np.int8(1)
            self._tables[key] = (shifts.tolist(), torch.from_numpy(signs).float().to(device))
        return self._tables[key]
