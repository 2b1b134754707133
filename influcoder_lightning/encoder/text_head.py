"""Text -> code in closed form: kernel regression from texts that were seen onto their codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.kernel_regression import KernelRegression
from influcoder_lightning.encoder.text_kernel import BAGS, BUCKETS, TextFeatures, TextKernel
from influcoder_lightning.errors import StoreError
from influcoder_lightning.files import read_whole, why_no_model, write_new
from influcoder_lightning.tensors import read_tensors, tensor_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KIND = ("token_kernel", 1)


class TextHead:
    """The kernel, the texts it was fitted on (as features) and the regression onto their codes.

    Attributes:
        dense_dim: width of the sentence embeddings it expects; 0 without.
    """

    def __init__(
        self, kernel: TextKernel, seen: TextFeatures, regression: KernelRegression
    ) -> None:
        self.kernel, self.seen, self.regression = kernel, seen, regression
        self.dense_dim = 0 if seen.dense is None else seen.dense.shape[1]

    @classmethod
    def fit(
        cls,
        texts: Sequence[TextRow],
        codes: np.ndarray,
        dense: np.ndarray | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> TextHead:
        """Fit to codes [n, d], with sentence embeddings [n, e] where there are any.

        Time grows with n^3 and memory with n^2: 5,000 texts take half a minute and 0.5 GB.
        """
        kernel = TextKernel.of(texts, tokenizer)
        seen = kernel.features(texts, dense)
        return cls(kernel, seen, KernelRegression.fit(kernel(seen, seen), codes))

    def predict(self, texts: Sequence[TextRow], dense: np.ndarray | None = None) -> np.ndarray:
        """Expected codes [n, d] float32: shorter than 1 where the tower is unsure."""
        return self.regression.predict(self.kernel(self.kernel.features(texts, dense), self.seen))

    def confidence(self, predicted: np.ndarray) -> np.ndarray:
        """Expected cosine [n] of predicted codes with the true ones, in [0, 1]."""
        return self.regression.confidence(predicted)

    def save(self, folder: Path) -> None:
        """Write ``config.json``, ``head.safetensors`` and, if it has one, ``tokenizer/``."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "idf": self.kernel.idf,
            "weights": self.regression.weights,
            "knots": self.regression.knots,
        }
        for name, bag in zip(BAGS, self.seen.bags, strict=True):
            arrays[f"{name}.data"] = bag.data.astype(np.float16)
            arrays[f"{name}.indices"] = bag.indices.astype(np.int32)
            arrays[f"{name}.indptr"] = bag.indptr.astype(np.int64)
        if self.seen.dense is not None:
            arrays["dense"] = self.seen.dense
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        write_new(folder / "head.safetensors", tensor_blocks(tensors))
        kind, version = _KIND
        config = {
            "kind": kind,
            "version": version,
            "penalty": self.regression.penalty,
            "dense_dim": self.dense_dim,
            "tokenizer": self.kernel.tokenizer is not None,
        }
        if self.kernel.tokenizer is not None:
            self.kernel.tokenizer.save_pretrained(str(folder / "tokenizer"))
        (folder / "config.json").write_text(json.dumps(config))

    @classmethod
    def load(cls, folder: Path) -> TextHead:
        """Read what `save` wrote; nothing in it is executed.

        Raises:
            StoreError: missing, damaged, or of another kind.
        """
        try:
            if why := why_no_model(folder):
                raise ValueError(why)
            config = json.loads(read_whole(folder / "config.json"))
            if (config["kind"], config["version"]) != _KIND:
                raise ValueError(f"unknown kind {config['kind']!r}, version {config['version']!r}")
            tensors = read_tensors(folder / "head.safetensors")
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            _check(arrays, config)
            weights = arrays["weights"]
            bags = [_bag(arrays, name, len(weights)) for name in BAGS]
            regression = KernelRegression(weights, float(config["penalty"]), arrays["knots"])
            tokenizer = _tokenizer(folder / "tokenizer") if config["tokenizer"] else None
            seen = TextFeatures(bags, arrays.get("dense"))
            return cls(TextKernel(arrays["idf"], tokenizer), seen, regression)
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise StoreError(
                f"cannot read the text head in {folder}: {reason:.300}. Train it again, or rank by "
                "a method that needs no text tower."
            ) from error


def _check(arrays: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Shapes, types and values that a prediction relies on; a file is not to be trusted."""
    n = len(arrays["weights"])
    dimensions = {"weights": 2, "knots": 2, "idf": 2} | ({"dense": 2} if "dense" in arrays else {})
    for name, array in arrays.items():
        if name in dimensions and (array.ndim != dimensions[name] or array.dtype != np.float32):
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
    knots, dense = arrays["knots"], arrays.get("dense", np.zeros((n, 0), np.float32))
    if arrays["idf"].shape != (len(BAGS), BUCKETS):
        raise ValueError(f"idf has shape {arrays['idf'].shape}")
    if len(knots) != 2 or knots.shape[1] < 1 or (np.diff(knots[0]) < 0).any():
        raise ValueError("knots are no curve")
    if dense.shape != (n, config["dense_dim"]):
        raise ValueError(f"dense has shape {dense.shape}, not ({n}, {config['dense_dim']!r})")
    if not 0 < float(config["penalty"]) < np.inf:
        raise ValueError(f"the penalty is {config['penalty']!r:.60}")


def _bag(arrays: dict[str, np.ndarray], name: str, n: int) -> sp.csr_matrix:
    parts = (
        arrays[f"{name}.data"].astype(np.float32),
        arrays[f"{name}.indices"],
        arrays[f"{name}.indptr"],
    )
    bag = sp.csr_matrix(parts, shape=(n, BUCKETS))
    bag.check_format(full_check=True)  # indices from a file are not to be trusted
    return bag


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=False, local_files_only=True
    )
