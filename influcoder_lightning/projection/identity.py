"""No projection: the flattened gradient itself, for small models and as an oracle."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from influcoder_lightning.projection import Matrix, Projector


class Identity(Projector):
    """Keeps every coordinate, at ``layer.offset``; ``dim`` and ``seed`` are ignored."""

    name = "identity"

    def __init__(self, layers: Sequence[Matrix], dim: int, seed: int) -> None:
        self.dim = sum(layer.numel for layer in layers)

    def add(self, sketch: Tensor, layer: Matrix, rows: Tensor) -> None:
        """See `Projector.add`."""
        own = sketch[:, layer.offset : layer.offset + layer.numel]
        own.unflatten(1, layer.shape).add_(rows)
