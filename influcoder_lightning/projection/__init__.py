"""Flattened per-sample gradients -> sketches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from influcoder_lightning.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class Matrix(Protocol):
    """What is sketched: the gradient of a LoRA linear, or anything else of a name and a shape."""

    @property
    def name(self) -> str:
        """Draws the random numbers, together with the seed."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features) of one row."""

    @property
    def numel(self) -> int:
        """Numbers in it."""

    @property
    def offset(self) -> int:
        """Where it starts in the flattened gradient."""


class Projector(ABC):
    """A linear map of the flattened LoRA gradient, applied layer by layer."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # of what a seed means; sketches of two versions do not compare
    dim: int

    @abstractmethod
    def __init__(self, layers: Sequence[Matrix], dim: int, seed: int) -> None:
        """For these layers, to about ``dim`` numbers (a projector may fix ``dim`` itself)."""

    @abstractmethod
    def add(self, sketch: Tensor, layer: Matrix, rows: Tensor) -> None:
        """Add the projection of one layer's rows to ``sketch``, in place.

        Args:
            sketch: [B, dim] float32.
            layer: which layer the rows belong to.
            rows: [B, out_features, in_features] float32 weight gradients, in any memory layout.
        """


def build_projector(name: str, layers: Sequence[Matrix], dim: int, seed: int) -> Projector:
    """The projector called ``name`` for these layers.

    Raises:
        ConfigError: unknown name (the known ones are listed).
    """
    check_projector(name)
    return _projectors()[name](layers, dim, seed)


def check_projector(name: str) -> None:
    """Raise ``ConfigError`` unless a projector of that name exists."""
    if name not in _projectors():
        raise ConfigError(f"unknown projector {name!r}: choose one of {sorted(_projectors())}.")


def _projectors() -> dict[str, type[Projector]]:
    # Here, since each of their files imports this one.
    from influcoder_lightning.projection.countsketch import CountSketch
    from influcoder_lightning.projection.factored import Factored
    from influcoder_lightning.projection.identity import Identity
    from influcoder_lightning.projection.rademacher import Rademacher

    return {kind.name: kind for kind in (CountSketch, Factored, Identity, Rademacher)}


def layer_generator(seed: int, name: str) -> np.random.Generator:
    """A random stream that is a pure function of (seed, layer name).

    So projections agree across devices, batch sizes, processes and restarts.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], "<u8")))
