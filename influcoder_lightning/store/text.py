"""Columns of text, as UTF-8 bytes and where each entry ends.

HDF5's own text of variable length lies in a heap that no checksum covers, and where a flipped bit
can keep the library busy for good. So a column of text is a group of two plain data sets::

    utf8   [total bytes] uint8, all entries one after the other
    end    [N] int64, the byte behind each entry

Stores of the first release, and segments, have text of variable length; both are read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import h5py
import numpy as np

_BYTES, _ENDS = "utf8", "end"
PARTS = {_BYTES: "u1", _ENDS: "i8"}
Column: TypeAlias = h5py.Dataset | h5py.Group


def is_text(column: Column) -> bool:
    """Whether a column holds text, in either form."""
    if isinstance(column, h5py.Group):
        return True
    return h5py.check_string_dtype(column.dtype) is not None


def n_entries(column: Column) -> int:
    """How many entries a column has, of text or of numbers."""
    return len(column[_ENDS] if isinstance(column, h5py.Group) else column)


def encoded(texts: Sequence[str], start: int) -> dict[str, np.ndarray]:
    """The two parts of entries that follow ``start`` bytes of earlier ones."""
    # Python's text may hold halves of surrogate pairs; they come back as they were.
    entries = [text.encode("utf-8", "surrogatepass") for text in texts]
    lengths = np.fromiter(map(len, entries), dtype=np.int64, count=len(entries))
    return {
        _BYTES: np.frombuffer(b"".join(entries), dtype=np.uint8),
        _ENDS: start + np.cumsum(lengths),
    }


def read_text(column: Column, chosen: Any = slice(None)) -> np.ndarray:
    """[n] object array of str: all or the chosen entries (a slice without step, or positions).

    Raises:
        ValueError: the entries' ends do not fit their bytes, or these are no UTF-8.
    """
    if isinstance(column, h5py.Dataset):
        return np.asarray(column.asstr()[chosen], dtype=object)
    if not isinstance(chosen, slice):
        return read_text(column)[chosen]
    first, last, _ = chosen.indices(len(column[_ENDS]))
    ends = column[_ENDS][max(first - 1, 0) : max(last, first)]
    begin = 0 if first == 0 else int(ends[0])
    edges = [begin, *ends[first > 0 :].tolist()]
    size = len(column[_BYTES])
    if any(a > b for a, b in pairwise([0, *edges, size])):
        raise ValueError(f"the texts of {column.name} do not fit their bytes")
    data = column[_BYTES][begin : edges[-1]].tobytes()
    texts = [
        data[a - begin : b - begin].decode("utf-8", "surrogatepass") for a, b in pairwise(edges)
    ]
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found
