"""Random subsets of a pool, each a pure function of the seed and its own number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import ConfigError


def draw_subset(n: int, share: float, index: int, seed: int) -> NDArray[np.int64]:
    """Positions of one subset, sorted: ``round(share * n)`` of n, without replacement.

    Subset i is the same however many others are drawn, so that more can be added later.

    Raises:
        ConfigError: the share leaves nothing in, or nothing out.
    """
    size = round(share * n)
    if not 0 < size < n:
        raise ConfigError(f"lds.share={share} of {n} samples leaves {size}: nothing to compare.")
    chosen = np.random.default_rng([seed, index]).choice(n, size=size, replace=False)
    return np.sort(chosen).astype(np.int64)


def membership(subsets: list[NDArray[np.int64]], n: int) -> NDArray[np.bool_]:
    """[S, n] whether a sample is in a subset."""
    members = np.zeros((len(subsets), n), dtype=bool)
    for row, subset in zip(members, subsets, strict=True):
        row[subset] = True
    return members
