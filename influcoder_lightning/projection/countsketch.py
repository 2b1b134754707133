"""CountSketch: every coordinate goes, with a random sign, into one random bucket.

Charikar, Chen, Farach-Colton: Finding frequent items in data streams (2002). Inner products are
preserved in expectation with a variance of about 1/dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.projection import Projector, layer_generator


class CountSketch(Projector, name="countsketch"):
    """Seeded CountSketch to ``dim`` buckets shared by all layers."""

    def __init__(self, layers: Sequence[LoraLinear], dim: int, seed: int) -> None:
        self.dim = dim
        self._seed = seed
        self._tables: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}

    def add(self, sketch: Tensor, layer: LoraLinear, rows: Tensor) -> None:
        """See `Projector.add`."""
        buckets, signs = self._table(layer, rows.device)
        # index_add_ and not scatter_add_: it has a deterministic CUDA kernel, which
        # Trainer(deterministic=True) demands.
        sketch.index_add_(1, buckets, rows * signs)

    def _table(self, layer: LoraLinear, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (layer.name, device)
        if key not in self._tables:
            generator = layer_generator(self._seed, layer.name)
            buckets = generator.integers(0, self.dim, layer.numel, dtype=np.int32)
            signs = generator.integers(0, 2, layer.numel, dtype=np.int8) * np.int8(2) - np.int8(1)
            self._tables[key] = (
                torch.from_numpy(buckets).to(device),
                torch.from_numpy(signs).to(device),
            )
        return self._tables[key]
