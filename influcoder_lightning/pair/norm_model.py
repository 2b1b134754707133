"""A gradient's norm, foreseen from what a forward pass says: loss and number of response tokens.

`cosine` and `fisher` divide by the norm of the sample's gradient, which two forward passes do not
give. A line in the logarithms foresees it (rho 0.91 with the true norm on mini-llama).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

Numbers = NDArray[np.floating]


@dataclass(frozen=True)
class NormModel:
    """``log norm = constant + loss * log(loss) + tokens * log(n_tokens)``.

    Attributes:
        agreement: Spearman's rho of foreseen and true norms, on rows that were not fitted.
    """

    constant: float
    loss: float
    tokens: float
    agreement: float

    @classmethod
    def fit(cls, norms: Numbers, losses: Numbers, n_tokens: Numbers) -> NormModel:
        """By least squares on all rows; its agreement is that of two halves for each other.

        Args:
            norms: [n], positive; others are left out.
            losses: [n] mean response losses.
            n_tokens: [n].
        """
        known = (norms > 0) & np.isfinite(norms) & (losses > 0) & (n_tokens > 0)
        columns, target = _columns(losses[known], n_tokens[known]), np.log(norms[known])
        found = _solved(columns, target)
        half = np.arange(len(target)) % 2 == 0
        guesses = np.empty(len(target))
        for own in (half, ~half):
            guesses[~own] = columns[~own] @ _solved(columns[own], target[own])
        rho = float(spearmanr(guesses, target).statistic) if len(target) > 3 else float("nan")
        constant, loss, tokens = map(float, found)
        return cls(constant, loss, tokens, rho)

    def __call__(self, losses: Numbers, n_tokens: Numbers) -> NDArray[np.float64]:
        """Foreseen norms [n]."""
        weights = np.array([self.constant, self.loss, self.tokens])
        return np.asarray(np.exp(_columns(losses, n_tokens) @ weights))


def _columns(losses: Numbers, n_tokens: Numbers) -> NDArray[np.float64]:
    ones = np.ones(len(losses))
    return np.stack(
        [ones, np.log(np.maximum(losses, 1e-6)), np.log(np.maximum(n_tokens, 1))], axis=1
    )


def _solved(columns: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.lstsq(columns, target, rcond=None)[0])
