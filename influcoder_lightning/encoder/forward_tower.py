"""Between text and gradient: the last blocks' gradients -> the code of the whole gradient.

The gradient of the last blocks is nearly free once the forward pass is done, and says much of what
the rest would say. What it does not say depends on the tokens, which the text kernel compares:

    k = (L + L T) / 2

with L the cosine of the late gradients and T the text kernel, and kernel regression onto codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.kernel_regression import KernelRegression
from influcoder_lightning.encoder.text_kernel import TextFeatures, TextKernel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ForwardTower:
    """Kernel regression from late gradients and texts; in memory only.

    Use `fit`, then `expect`.
    """

    def __init__(
        self,
        kernel: TextKernel,
        texts: TextFeatures,
        late: np.ndarray,
        regression: KernelRegression,
    ) -> None:
        self._kernel, self._texts, self._late = kernel, texts, late
        self.regression = regression

    @classmethod
    def fit(
        cls,
        late: np.ndarray,
        texts: Sequence[TextRow],
        codes: np.ndarray,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> ForwardTower:
        """Fit to codes [n, d] from late gradients [n, p], any scale, and texts."""
        kernel = TextKernel.of(texts, tokenizer)
        features, unit = kernel.features(texts), _unit(late)
        gram = _joint(unit @ unit.T, kernel(features, features))
        return cls(kernel, features, unit, KernelRegression.fit(gram, codes))

    def expect(self, late: np.ndarray, texts: Sequence[TextRow]) -> tuple[np.ndarray, np.ndarray]:
        """Expected codes [n, d] float32, and the confidence [n], as `TextTower.expect`."""
        alike = self._kernel(self._kernel.features(texts), self._texts)
        expected = self.regression.predict(_joint(_unit(late) @ self._late.T, alike))
        return expected, self.regression.confidence(expected)


def _joint(late: np.ndarray, text: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * late * (1 + text))


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
