"""Kernel ridge regression with several outputs, and how sure each prediction is.

    f(x) = k(x, X) (K + penalty I)^-1 Y

is the posterior mean of a Gaussian process (Rasmussen and Williams 2006, chapter 2), so that it
shrinks towards zero for inputs unlike any that were seen. Leave-one-out predictions have a closed
form (section 5.4.2 there): they choose the penalty and calibrate the confidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
_CHOOSE_ROWS = 1500  # leave-one-out needs an inverse; more rows choose the same penalty


class KernelRegression:
    """A fitted map from kernel values to codes.

    Attributes:
        weights: [n, d] float32 dual weights.
        penalty: ridge penalty, on the kernel's scale.
        knots: [2, m] float32, length of a prediction -> expected cosine with the truth.
    """

    def __init__(self, weights: np.ndarray, penalty: float, knots: np.ndarray) -> None:
        self.weights, self.penalty, self.knots = weights, penalty, knots

    @classmethod
    def fit(
        cls, gram: np.ndarray, targets: np.ndarray, penalties: Sequence[float] = PENALTIES
    ) -> KernelRegression:
        """Fit to targets [n, d] with the kernel matrix [n, n] of the inputs.

        The penalty has the least squared leave-one-out error on at most 1,500 evenly spaced rows.
        """
        targets = targets.astype(np.float64)
        chosen = np.unique(np.linspace(0, len(gram) - 1, min(len(gram), _CHOOSE_ROWS)).astype(int))
        part = gram[np.ix_(chosen, chosen)]
        trials = [(_leave_one_out(part, targets[chosen], p), p) for p in penalties]
        left_out, penalty = min(trials, key=lambda trial: _error(trial[0], targets[chosen]))
        factor = scipy.linalg.cho_factor(_regularised(gram, penalty), overwrite_a=True)
        weights = scipy.linalg.cho_solve(factor, targets).astype(np.float32)
        return cls(weights, penalty, _calibration(left_out, targets[chosen]))

    def predict(self, kernel: np.ndarray) -> np.ndarray:
        """Posterior means [m, d] float32 from kernel values [m, n]; shorter where unsure."""
        return np.asarray(kernel.astype(np.float32) @ self.weights)

    def confidence(self, predicted: np.ndarray) -> np.ndarray:
        """Expected cosine [m] float32 between predictions [m, d] and the truth, in [0, 1]."""
        lengths = np.linalg.norm(predicted, axis=1)
        return np.interp(lengths, *self.knots).astype(np.float32)


def _regularised(gram: np.ndarray, penalty: float) -> np.ndarray:
    matrix = gram.astype(np.float64)
    matrix[np.diag_indices_from(matrix)] += penalty
    return matrix


def _leave_one_out(gram: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    inverse = scipy.linalg.inv(_regularised(gram, penalty), overwrite_a=True)
    return np.asarray(targets - (inverse @ targets) / np.diag(inverse)[:, None])


def _error(predicted: np.ndarray, targets: np.ndarray) -> float:
    return float(np.square(predicted - targets).sum())


def _calibration(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    from sklearn.isotonic import IsotonicRegression  # slow to import, needed once

    lengths = np.linalg.norm(predicted, axis=1)
    norms = np.maximum(lengths * np.linalg.norm(targets, axis=1), 1e-12)
    cosines = np.clip((predicted * targets).sum(1) / norms, 0, 1)
    curve = IsotonicRegression(out_of_bounds="clip").fit(lengths, cosines)
    return np.stack([curve.X_thresholds_, curve.y_thresholds_]).astype(np.float32)
