"""Flattened per-sample gradients -> sketches; a projector registers itself under its name."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from influcoder_lightning.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

_MODULES = {
    "countsketch": "countsketch",
    "identity": "identity",
    "rademacher": "rademacher",
    "factored": "factored",
}


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
    """A linear map of the flattened LoRA gradient, applied layer by layer.

    Subclasses register with ``class X(Projector, name="x")``.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # of what a seed means; sketches of two versions do not compare
    _registry: ClassVar[dict[str, type[Projector]]] = {}
    dim: int

    def __init_subclass__(cls, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name
        Projector._registry[name] = cls

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
    importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return Projector._registry[name](layers, dim, seed)


def check_projector(name: str) -> None:
    """Raise ``ConfigError`` unless a projector of that name exists."""
    if name not in _MODULES:
        raise ConfigError(f"unknown projector {name!r}: choose one of {sorted(_MODULES)}.")


def layer_generator(seed: int, name: str) -> np.random.Generator:
    """A random stream that is a pure function of (seed, layer name).

    So projections agree across devices, batch sizes, processes and restarts.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], "<u8")))
