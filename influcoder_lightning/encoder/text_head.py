"""Text -> code in closed form: ridge regression from the surface of the text.

Gradients care about the surface of a response (length, format, digits) as much as about its
meaning, so the features are hashed character n-grams of the response and of the prompt, next to
the sentence encoder's output where there is one. Hoerl and Kennard: Ridge regression (1970).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Ridge

from influcoder_lightning.capture.rows import Text
from influcoder_lightning.errors import StoreError

_RESPONSE_FEATURES, _PROMPT_FEATURES = 4096, 2048
_PENALTIES = (0.1, 0.3, 1.0, 3.0)


class TextHead:
    """A linear map from text features (and optional dense features) to codes.

    Attributes:
        weights: [F, d] float32, F = bias + length features + n-gram features + dense features.
        idf: [n-gram features] float32 inverse document frequencies of the texts it was fitted on.
    """

    def __init__(self, weights: np.ndarray, idf: np.ndarray, dense_dim: int) -> None:
        self.weights, self.idf, self.dense_dim = weights, idf, dense_dim

    @classmethod
    def fit(
        cls, texts: Sequence[Text], codes: np.ndarray, dense: np.ndarray | None = None
    ) -> TextHead:
        """Fit to codes [n, d]; the penalty is chosen on every tenth text, then all are used."""
        counts = _ngrams(texts)
        documents = np.asarray((counts > 0).sum(axis=0)).ravel()
        idf = (np.log((1 + len(texts)) / (1 + documents)) + 1).astype(np.float32)
        features = _features(texts, idf, dense, counts)
        held_out = np.arange(len(texts)) % 10 == 9
        penalty = 1.0
        if held_out.sum() >= 5:
            penalty = max(
                _PENALTIES,
                key=lambda a: _cosine(
                    features[held_out] @ _ridge(features[~held_out], codes[~held_out], a),
                    codes[held_out],
                ),
            )
        weights = _ridge(features, codes, penalty).astype(np.float32)
        return cls(weights, idf, 0 if dense is None else dense.shape[1])

    def predict(self, texts: Sequence[Text], dense: np.ndarray | None = None) -> np.ndarray:
        """Codes [n, d] float32, L2-normalised."""
        codes = np.asarray(_features(texts, self.idf, dense, _ngrams(texts)) @ self.weights)
        norms = np.linalg.norm(codes, axis=1, keepdims=True)
        return (codes / np.maximum(norms, 1e-12)).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``head.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights, "idf": self.idf}, folder / "head.safetensors")
        config = {"kind": "ngram_ridge", "version": 1, "dense_dim": self.dense_dim}
        (folder / "config.json").write_text(json.dumps(config))

    @classmethod
    def load(cls, folder: Path) -> TextHead:
        """Read what `save` wrote.

        Raises:
            StoreError: missing, damaged, or of another kind.
        """
        try:
            config = json.loads((folder / "config.json").read_text())
            arrays = load_file(folder / "head.safetensors")
            if (config["kind"], config["version"]) != ("ngram_ridge", 1):
                raise ValueError(f"unknown kind {config['kind']!r}, version {config['version']!r}")
            return cls(arrays["weights"], arrays["idf"], int(config["dense_dim"]))
        except Exception as error:
            raise StoreError(f"cannot read the text head in {folder}: {error}") from error


def _ngrams(texts: Sequence[Text]) -> sp.csr_matrix:
    parts = []
    for field, size in (("response", _RESPONSE_FEATURES), ("prompt", _PROMPT_FEATURES)):
        vectorizer = HashingVectorizer(
            analyzer="char", ngram_range=(1, 3), n_features=size, norm=None, alternate_sign=False
        )
        parts.append(vectorizer.transform([text[field] for text in texts]))
    return sp.csr_matrix(sp.hstack(parts, format="csr", dtype=np.float32))


def _features(
    texts: Sequence[Text], idf: np.ndarray, dense: np.ndarray | None, counts: sp.csr_matrix
) -> sp.csr_matrix:
    logged = counts.copy()
    logged.data = 1 + np.log(logged.data)
    weighted = logged @ sp.diags_array(idf)
    blocks = [weighted[:, :_RESPONSE_FEATURES], weighted[:, _RESPONSE_FEATURES:]]
    scaled = [_normalised(block) for block in blocks]
    lengths = [[len(t["response"]), len(t["prompt"]), t["response"].count("\n")] for t in texts]
    surface = np.log1p(np.array(lengths, dtype=np.float32)) / 5
    extra: list[np.ndarray] = [np.ones((len(texts), 1), dtype=np.float32), surface]
    if dense is not None:
        extra.append(dense.astype(np.float32))
    return sp.csr_matrix(sp.hstack([sp.csr_matrix(np.hstack(extra)), *scaled], format="csr"))


def _normalised(block: Any) -> Any:
    norms = np.sqrt(np.asarray(block.multiply(block).sum(axis=1)).ravel())
    return sp.diags_array(1 / np.maximum(norms, 1e-12)) @ block


def _ridge(features: sp.csr_matrix, codes: np.ndarray, penalty: float) -> np.ndarray:
    model = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky")
    return np.asarray(model.fit(features.astype(np.float64), codes.astype(np.float64)).coef_).T


def _cosine(predicted: np.ndarray, codes: np.ndarray) -> float:
    norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(codes, axis=1)
    return float(((predicted * codes).sum(1) / np.maximum(norms, 1e-12)).mean())
