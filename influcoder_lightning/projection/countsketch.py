"""CountSketch: every coordinate goes, with a random sign, into one random bucket.

Charikar, Chen, Farach-Colton: Finding frequent items in data streams (2002). Inner products are
preserved in expectation with a variance of about 1/dim.

The buckets: the gradient of a layer, flattened with its longer side running fastest, is cut into
blocks of ``dim`` coordinates, and each block goes to the buckets in order, rotated by a random
shift of its own. Two coordinates of one block never meet, two of different blocks meet with
probability 1/dim, and the signs are independent: all that the analysis asks for. A block is then
added by two runs over neighbouring numbers, some thirty times faster on a CPU than by scattered
buckets, and in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from influcoder_lightning.projection import Matrix, Projector, layer_generator


def few_blocks(device: torch.device) -> int:
    """Blocks of a row beyond which other ways are faster than so many short runs."""
    return 256 if device.type == "cpu" else 64


class CountSketch(Projector):
    """Seeded CountSketch to ``dim`` buckets shared by all layers."""

    name = "countsketch"
    version = 3  # 1: scattered buckets; 2: always row-major

    def __init__(self, layers: Sequence[Matrix], dim: int, seed: int) -> None:
        self.dim = dim
        self._seed = seed
        self._tables: dict[tuple[str, torch.device], tuple[list[int], Tensor]] = {}
        self._runs: dict[tuple[str, torch.device], list[tuple[slice, slice, Tensor]]] = {}

    def add(self, sketch: Tensor, layer: Matrix, rows: Tensor) -> None:
        """See `Projector.add`."""
        tall = layer.shape[0] > layer.shape[1]
        flat = (rows.transpose(1, 2) if tall else rows).flatten(1)
        if layer.numel <= few_blocks(rows.device) * self.dim:
            for run, part, part_signs in self._layer_runs(layer, rows.device):
                sketch[:, run].addcmul_(flat[:, part], part_signs)
            return
        buckets, signs = self.buckets(layer, rows.device)
        # index_add_ and not scatter_add_: it has a deterministic CUDA kernel, which
        # Trainer(deterministic=True) demands.
        sketch.index_add_(1, buckets, flat * signs)

    def buckets(self, layer: Matrix, device: torch.device) -> tuple[Tensor, Tensor]:
        """Bucket [numel] int64 and sign [numel] float32 of each coordinate, in sketching order."""
        shifts, signs = self._table(layer, device)
        places = torch.arange(layer.numel, device=device)
        shift = torch.tensor(shifts, device=device)[places // self.dim]
        return (places + shift) % self.dim, signs

    def _layer_runs(self, layer: Matrix, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
        """Neighbouring buckets, the coordinates that go to them, and their signs."""
        key = (layer.name, device)
        if key not in self._runs:
            shifts, signs = self._table(layer, device)
            runs = []
            for block, first_bucket in enumerate(shifts):
                start = block * self.dim
                stop = min(start + self.dim, layer.numel)
                # From `turn` on, buckets start again at 0.
                turn = min(start + self.dim - first_bucket, stop)
                for begin, end, first in ((start, turn, first_bucket), (turn, stop, 0)):
                    if begin < end:
                        buckets = slice(first, first + end - begin)
                        runs.append((buckets, slice(begin, end), signs[begin:end]))
            self._runs[key] = runs
        return self._runs[key]

    def _table(self, layer: Matrix, device: torch.device) -> tuple[list[int], Tensor]:
        key = (layer.name, device)
        if key not in self._tables:
            generator = layer_generator(self._seed, layer.name)
            shifts = generator.integers(0, self.dim, -(-layer.numel // self.dim))
            signs = generator.integers(0, 2, layer.numel, dtype=np.int8) * np.int8(2) - np.int8(1)
            self._tables[key] = (shifts.tolist(), torch.from_numpy(signs).float().to(device))
        return self._tables[key]
