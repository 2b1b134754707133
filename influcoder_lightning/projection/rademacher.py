"""Dense Rademacher projection: every coordinate goes into every bucket with a random sign.

Johnson and Lindenstrauss with +-1 entries (Achlioptas 2003), as LESS uses it (Xia et al. 2024,
arXiv 2402.04333). It costs numel x dim products per sample where `countsketch` costs numel, so it
is here to compare with. Signs are a pure function of (seed, layer name, place) and are drawn anew
for every batch, because the whole matrix would not fit: use large batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from influcoder_lightning.projection import Matrix, Projector, layer_generator

_BLOCK = 2048  # coordinates whose signs are held at a time


class Rademacher(Projector):
    """Seeded +-1/sqrt(dim) matrix from all coordinates to ``dim`` numbers."""

    name = "rademacher"

    def __init__(self, layers: Sequence[Matrix], dim: int, seed: int) -> None:
        self.dim = dim
        self._seed = seed

    def add(self, sketch: Tensor, layer: Matrix, rows: Tensor) -> None:
        """See `Projector.add`."""
        generator, rows = layer_generator(self._seed, layer.name), rows.flatten(1)
        n_bytes = -(-self.dim // 8)
        for start in range(0, layer.numel, _BLOCK):
            block = rows[:, start : start + _BLOCK]
            random = np.frombuffer(generator.bytes(block.shape[1] * n_bytes), dtype=np.uint8)
            bits = np.unpackbits(random.reshape(-1, n_bytes), axis=1)[:, : self.dim]
            signs = torch.from_numpy(bits).to(rows.device, torch.float32).mul_(2).sub_(1)
            sketch.addmm_(block, signs, alpha=self.dim**-0.5)
