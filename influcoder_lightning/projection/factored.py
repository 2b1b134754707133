"""Factored random projection: each weight gradient G [out, in] becomes P G Q^T [k, k].

LoGRA (Choe et al. 2024, arXiv 2405.13954) with random factors. A layer's own numbers stay apart,
so that ``dim`` is the sum over layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from influcoder_lightning.projection import Matrix, Projector, layer_generator


class Factored(Projector):
    """Seeded Gaussian factors of rank ``k = max(1, round(sqrt(dim / n_layers)))`` per layer.

    ``dim`` becomes ``n_layers * k**2``; 64 numbers per LoRA matrix are the published k = 8.
    """

    name = "factored"

    def __init__(self, layers: Sequence[Matrix], dim: int, seed: int) -> None:
        self.rank = max(1, round((dim / len(layers)) ** 0.5))
        self.dim = len(layers) * self.rank**2
        self._seed = seed
        self._starts = {layer.name: i * self.rank**2 for i, layer in enumerate(layers)}
        self._factors: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}

    def add(self, sketch: Tensor, layer: Matrix, rows: Tensor) -> None:
        """See `Projector.add`."""
        left, right = self._pair(layer, rows.device)
        start = self._starts[layer.name]
        sketch[:, start : start + self.rank**2] += (left @ rows @ right).flatten(1)

    def _pair(self, layer: Matrix, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (layer.name, device)
        if key not in self._factors:
            generator = layer_generator(self._seed, layer.name)
            out_features, in_features = layer.shape
            left = generator.standard_normal((self.rank, out_features), dtype="float32")
            right = generator.standard_normal((in_features, self.rank), dtype="float32")
            scale = self.rank**-0.5  # of each factor: inner products are kept in expectation
            self._factors[key] = (
                torch.from_numpy(left * scale).to(device),
                torch.from_numpy(right * scale).to(device),
            )
        return self._factors[key]
