"""Rows that are nearly copies of earlier ones, by MinHash over their words and pairs of words.

Broder, "On the resemblance and containment of documents" (1997). Time grows with the number of
words, not with the square of the rows.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.8  # share of their words and pairs of words that near copies have in common
_BANDS, _PER_BAND = 12, 3  # two texts that share 0.8 meet in a band with probability 0.9998
_AT_A_TIME = 8192  # texts
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: a character is a word
_WORDS = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")


def near_copies(texts: Sequence[str]) -> list[int]:
    """Places of texts that share at least `ALIKE` of their words and pairs of words with an earlier
    one (Jaccard index), in order; a true copy is one, too.

    Case does not count; of many that are alike each is compared with the first.

    Example:
        >>> near_copies(["One two three four five six.", "ONE two three four five six."])
        [1]
    """
    signatures = np.empty((len(texts), _BANDS * _PER_BAND), dtype=np.uint32)
    for at in range(0, len(texts), _AT_A_TIME):
        part = slice(at, at + _AT_A_TIME)
        signatures[part] = _signatures(texts[part])
    pairs = set[tuple[int, int]]()
    for band in np.split(signatures, _BANDS, axis=1):
        _, first, group = np.unique(_one(band), return_index=True, return_inverse=True)
        earlier = first[group]
        later = np.flatnonzero(earlier < np.arange(len(texts)))
        pairs.update(zip(later.tolist(), earlier[later].tolist(), strict=True))
    candidates = sorted(pairs)
    found = set[int]()
    for place, other in candidates:
        if place not in found and _jaccard(texts[place], texts[other]) >= ALIKE:
            found.add(place)
    return sorted(found)


def _one(band: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One number for each row of a band; that two rows share one by chance does no harm."""
    found = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        found = found * np.uint64(0x9E3779B97F4A7C15) + column
    return found


def _signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """MinHash of each text, uint32 [N, bands * per band]."""
    draw, n = np.random.default_rng(0), _BANDS * _PER_BAND
    factors = draw.integers(0, 2**63, n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shifts = draw.integers(0, 2**63, n, dtype=np.uint64)
    flat, ends = array("Q"), [0]
    for text in texts:
        flat.extend(map(_hash_of, _features(text)))
        ends.append(len(flat))
    values, starts = np.frombuffer(flat, np.uint64), np.array(ends[:-1])
    found = np.zeros((len(texts), n), dtype=np.uint32)
    filled = np.flatnonzero(np.diff(ends))
    if not len(filled):
        return found
    for column in range(n):
        hashed = ((values * factors[column] + shifts[column]) >> np.uint64(32)).astype(np.uint32)
        found[filled, column] = np.minimum.reduceat(hashed, starts[filled])
    return found


def _jaccard(left: str, right: str) -> float:
    a, b = _features(left), _features(right)
    return len(a & b) / len(a | b) if a or b else 1.0


def _features(text: str) -> set[str]:
    """Words, and pairs of words that stand side by side."""
    words = _WORDS.findall(text.lower())
    return {*words, *map("\n".join, pairwise(words))}


def _hash_of(feature: str) -> int:
    """The same in every process, unlike `hash`."""
    return crc32(feature.encode("utf-8", "surrogatepass"))
