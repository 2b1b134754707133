"""No projection: the flattened gradient itself, for small models and as an oracle."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.projection import Projector


class Identity(Projector, name="identity"):
    """Keeps every coordinate, at ``layer.offset``; ``dim`` and ``seed`` are ignored."""

    def __init__(self, layers: Sequence[LoraLinear], dim: int, seed: int) -> None:
        self.dim = sum(layer.numel for layer in layers)

    def add(self, sketch: Tensor, layer: LoraLinear, rows: Tensor) -> None:
        """See `Projector.add`."""
        own = sketch[:, layer.offset : layer.offset + layer.numel]
        own.unflatten(1, layer.shape).add_(rows)
