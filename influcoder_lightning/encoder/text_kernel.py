"""How alike are the LoRA gradients of two texts, judged from the texts alone?

A gradient is a sum over response tokens of outer(error at the token, hidden state before it), so
the inner product of two gradients compares every pair of response tokens: same target, same
context. The kernel is built likewise,

    k = 0.3 S + 0.7 S P

S: mean cosine of six bags over response tokens (token; with one and with two tokens before it;
with the one before the last; with its place; with both), counts damped by square roots and weighted
by inverse document frequency. P: cosine of the prompts' character 2- to 4-grams, mixed with that of
a sentence encoder where there is one (0.6 : 0.4). A sum of products of positive semi-definite
kernels is one again. Weights were chosen on held-out gradients, see docs/method.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from influcoder_lightning.data.rows import TextRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


BUCKETS = 2**16  # of each bag
BAGS = ("token", "after_one", "after_two", "skip_one", "place", "after_one_place", "prompt")
_PIECES = re.compile(r" ?[^\W\d_]+|\d| ?[^\w\s]|_|\s")


@dataclass
class TextFeatures:
    """Sparse features of n texts.

    Attributes:
        bags: seven CSR matrices [n, BUCKETS] float32 with rows of unit length, as in ``BAGS``.
        dense: [n, e] float32 sentence embeddings of unit length, or None.
    """

    bags: list[sp.csr_matrix]
    dense: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.bags[0].shape[0])


class TextKernel:
    """Kernel values between texts.

    Args:
        idf: [7, BUCKETS] float32 inverse document frequencies.
        tokenizer: of the model whose gradients are meant; None: words, digits and signs.
    """

    def __init__(self, idf: np.ndarray, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.idf, self.tokenizer = idf, tokenizer

    @classmethod
    def of(
        cls, texts: Sequence[TextRow], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> TextKernel:
        """With the document frequencies of these texts."""
        counts = _counts(texts, tokenizer)
        documents = np.stack([np.bincount(bag.indices, minlength=BUCKETS) for bag in counts])
        idf = np.log((1 + len(texts)) / (1 + documents)) + 1
        return cls(idf.astype(np.float32), tokenizer)

    def features(self, texts: Sequence[TextRow], dense: np.ndarray | None = None) -> TextFeatures:
        """Features of texts, with sentence embeddings [n, e] where there are any."""
        bags = []
        for bag, idf in zip(_counts(texts, self.tokenizer), self.idf, strict=True):
            bag.data = np.sqrt(bag.data) * idf[bag.indices]
            lengths = np.sqrt(np.asarray(bag.multiply(bag).sum(axis=1))).ravel()
            scale = (1 / np.maximum(lengths, 1e-12)).astype(np.float32)
            bag = sp.csr_matrix(sp.diags_array(scale) @ bag)
            bag.data = bag.data.astype(np.float16).astype(np.float32)  # as they are stored
            bags.append(bag)
        return TextFeatures(bags, None if dense is None else _unit(dense))

    def __call__(self, a: TextFeatures, b: TextFeatures) -> np.ndarray:
        """[len(a), len(b)] float32; 1 between equal texts."""
        *response, prompt = [
            np.asarray((x @ y.T).toarray(), dtype=np.float32)
            for x, y in zip(a.bags, b.bags, strict=True)
        ]
        alike = sum(response[1:], start=response[0]) / np.float32(len(response))
        if a.dense is not None and b.dense is not None:
            prompt = np.float32(0.6) * prompt + np.float32(0.4) * (a.dense @ b.dense.T)
        return np.asarray(alike * (np.float32(0.3) + np.float32(0.7) * prompt))


def _counts(
    texts: Sequence[TextRow], tokenizer: PreTrainedTokenizerBase | None
) -> list[sp.csr_matrix]:
    from sklearn.feature_extraction import FeatureHasher  # slow to import, needed late
    from sklearn.feature_extraction.text import HashingVectorizer

    bags: list[list[list[str]]] = [[] for _ in BAGS[:-1]]
    for tokens in _tokens([text["response"] for text in texts], tokenizer):
        for bag, features in zip(bags, _response_features(tokens), strict=True):
            bag.append(features)
    hasher = FeatureHasher(BUCKETS, input_type="string", alternate_sign=False, dtype=np.float32)
    prompts = HashingVectorizer(
        analyzer="char",
        ngram_range=(2, 4),
        lowercase=False,
        n_features=BUCKETS,
        norm=None,
        alternate_sign=False,
        dtype=np.float32,
    )
    matrices = [hasher.transform(bag) for bag in bags]
    matrices.append(prompts.transform([text["prompt"] for text in texts]))
    for matrix in matrices:
        matrix.sum_duplicates()
    return matrices


def _tokens(responses: list[str], tokenizer: PreTrainedTokenizerBase | None) -> list[list[str]]:
    if tokenizer is None:
        return [_PIECES.findall(text) for text in responses]
    encoded = tokenizer(responses, add_special_tokens=False, truncation=False, verbose=False)
    return [list(map(str, ids)) for ids in encoded["input_ids"]]


def _response_features(tokens: list[str]) -> list[list[str]]:
    padded = ["<2>", "<1>", *tokens, "<end>"]
    triples = list(zip(padded, padded[1:], padded[2:], strict=False))
    places = [(i + 1).bit_length() for i in range(len(triples))]  # 1, 2-3, 4-7, 8-15, ...
    return [
        [c for _, _, c in triples],
        [f"{b}|{c}" for _, b, c in triples],
        [f"{a}|{b}|{c}" for a, b, c in triples],
        [f"{a}||{c}" for a, _, c in triples],
        [f"{p}:{c}" for p, (_, _, c) in zip(places, triples, strict=True)],
        [f"{p}:{b}|{c}" for p, (_, b, c) in zip(places, triples, strict=True)],
    ]


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
