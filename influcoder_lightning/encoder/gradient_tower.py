"""Sketch -> code: a linear map learned while sketches stream by.

The spectrum of LoRA gradients is short, so the leading right singular vectors of the (normalised)
sketches preserve cosines almost exactly, where a random projection of the same width does not.
They are followed by merging each block of rows into the running factorisation: the truncated SVD
of ``[diag(s) V; X]`` (Brand 2002; Ross et al. 2008, incremental PCA, without centring, because
cosines are not centred). Each new basis is rotated onto the previous one (orthogonal Procrustes,
Schoenemann 1966): cosines do not notice, and the text tower's target stays put.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from influcoder_lightning.errors import StoreError
from influcoder_lightning.files import durable_folder, why_no_file, write_durably
from influcoder_lightning.projection.countsketch import CountSketch, few_blocks
from influcoder_lightning.tensors import read_tensors, tensor_blocks


def version_file(version: int) -> str:
    """Name of the file that holds a version."""
    return f"version_{version:05d}.safetensors"


TOWERS = "encoder/gradient"  # below the folder of a store


class GradientTower:
    """A linear encoder with frozen, numbered versions.

    Args:
        sketch_dim: width D of the sketches.
        code_dim: width d of the codes; directions that were never seen stay zero.

    Codes are ``normalize(P_v x)`` for version v with basis P_v [d, D].
    """

    def __init__(self, sketch_dim: int, code_dim: int) -> None:
        self.sketch_dim, self.code_dim = sketch_dim, code_dim
        self.versions: list[Tensor] = []
        self._basis = _float32(code_dim, sketch_dim)
        self._stale = False
        self._values = _float32(0)
        self._vectors = _float32(0, sketch_dim)

    @property
    def basis(self) -> Tensor:
        """[d, D] the newest fit, rotated onto the one that was asked for before it."""
        if self._stale:
            self._basis, self._stale = self._aligned(), False
        return self._basis

    def fit(self, sketches: Tensor, weight: float = 1.0) -> None:
        """Merge a block of sketches [n, D] float32 into the running factorisation.

        ``weight`` counts each of them that many times.
        """
        rows = functional.normalize(sketches.float(), dim=1) * weight**0.5
        stacked = torch.cat([self._values[:, None] * self._vectors, rows])
        gram = (stacked @ stacked.T).double()
        eigenvalues, left = torch.linalg.eigh(gram)
        keep = eigenvalues > eigenvalues[-1] * 1e-9  # below lies only float32 rounding
        order = torch.arange(len(eigenvalues) - 1, -1, -1)
        order = order[keep.flip(0)][: self.code_dim]
        self._values = eigenvalues[order].sqrt().float()
        self._vectors = (left[:, order].T.float() @ stacked) / self._values[:, None]
        self._stale = True

    def leading(self, width: int) -> GradientTower:
        """A tower with one version: the ``width`` directions that hold most energy, in order."""
        tower = GradientTower(self.sketch_dim, width)
        tower._basis[: len(self._vectors)] = self._vectors[:width]
        tower.freeze()
        return tower

    def retained(self, sketches: Tensor, version: int | None = None) -> float:
        """Mean share of the rows' squared norm that a version (default: the newest fit) keeps."""
        rows = functional.normalize(sketches.float(), dim=1)
        basis = self.basis if version is None else self.versions[version]
        return float((rows @ basis.T).square().sum(1).mean())

    def freeze(self) -> int:
        """Publish the newest fit as a version and return its number."""
        # Kept in half precision, as on disk, so that a code is the same whoever computes it.
        self.versions.append(self.basis.half().float())
        return len(self.versions) - 1

    def encode(self, sketches: Tensor, version: int = -1) -> Tensor:
        """Codes [n, d] float32, L2-normalised (zero rows stay zero)."""
        return functional.normalize(sketches.float() @ self.versions[version].T, dim=1)

    def project(self, sketches: Tensor, version: int = -1) -> Tensor:
        """[n, d] float32 unit sketches in the code space: codes before their length is dropped.

        Their length is the share of the gradient that the code space holds, and their inner
        products estimate cosines better than those of codes.
        """
        return sketches.float() @ self.versions[version].T / _lengths(sketches)

    def save(self, folder: Path, version: int) -> None:
        """Write one version to ``folder``; on return it is on the disk."""
        durable_folder(folder)
        blocks = tensor_blocks({"basis": self.versions[version].half()})
        write_durably(folder / version_file(version), blocks)

    def state(self) -> dict[str, Tensor]:
        """The running factorisation, for `restore`; versions are files of their own."""
        state = {"values": self._values, "vectors": self._vectors, "basis": self._basis}
        return state | {"stale": torch.tensor(self._stale)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._values, self._vectors = state["values"], state["vectors"]
        self._basis, self._stale = state["basis"], bool(state["stale"])

    def _aligned(self) -> Tensor:
        padded = _float32(self.code_dim, self.sketch_dim)
        padded[: len(self._vectors)] = self._vectors
        if not bool(self._basis.any()):
            return padded
        u, _, vh = torch.linalg.svd(self._basis @ padded.T)
        return (u @ vh) @ padded


class _Sketch(NamedTuple):
    name: str
    shape: tuple[int, int]
    numel: int
    offset: int = 0


class RandomProjection(GradientTower):
    """The code without co-training: a fixed seeded CountSketch; version 0 from the start.

    As good as a dense Gaussian projection to d numbers, whose matrix would be read from memory in
    every step.
    """

    def __init__(self, sketch_dim: int, code_dim: int, seed: int) -> None:
        super().__init__(sketch_dim, code_dim)
        self._layer = _Sketch("code", (1, sketch_dim), sketch_dim)
        self._hash = CountSketch([self._layer], code_dim, seed)
        buckets, signs = self._hash.buckets(self._layer, torch.device("cpu"))
        self._basis[buckets, torch.arange(sketch_dim)] = signs
        self.versions.append(self._basis)

    def project(self, sketches: Tensor, version: int = -1) -> Tensor:
        """See `GradientTower.project`."""
        if self.sketch_dim > few_blocks(sketches.device) * self.code_dim:
            return super().project(sketches)  # the matrix is small, and hashing slow
        codes = _float32(len(sketches), self.code_dim)
        self._hash.add(codes, self._layer, sketches.float()[:, None])
        return codes / _lengths(sketches)

    def encode(self, sketches: Tensor, version: int = -1) -> Tensor:
        """See `GradientTower.encode`."""
        return functional.normalize(self.project(sketches), dim=1)

    def fit(self, sketches: Tensor, weight: float = 1.0) -> None:
        """Nothing to learn."""


def _float32(*shape: int) -> Tensor:
    """Zeros whose precision does not follow the training's, which may set the default."""
    return torch.zeros(shape, dtype=torch.float32)


def _lengths(sketches: Tensor) -> Tensor:
    return torch.linalg.vector_norm(sketches.float(), dim=1, keepdim=True).clamp(min=1e-12)


def load_version(folder: Path, version: int) -> GradientTower:
    """A tower that holds one saved version (as its last).

    Raises:
        StoreError: the file of that version is missing or damaged.
    """
    path = folder / version_file(version)
    try:
        if why := why_no_file(path):
            raise ValueError(why)
        basis = read_tensors(path)["basis"].float()
        if basis.dim() != 2 or not bool(basis.isfinite().all()):
            raise ValueError(f"its basis of shape {tuple(basis.shape)} is no finite matrix")
    except Exception as error:
        raise StoreError(
            f"cannot read gradient tower version {version} at {path}: {error}"
        ) from error
    tower = GradientTower(basis.shape[1], basis.shape[0])
    tower.versions = [basis]
    return tower
