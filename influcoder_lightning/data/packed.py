"""Tokens of many rows in a few flat arrays: a pool of ten million rows is no ten million lists."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.encoded import Encoded, Span


class PackedRows:
    """Grows by one row at a time; four bytes a token, and some 30 a row.

    Example:
        >>> rows = PackedRows()
        >>> rows.add(Encoded([5, 6, 7], [(1, 3)], (0, 1)))
        >>> rows.tokens(0).tolist(), list(rows.trained(0))
        ([5, 6, 7], [(1, 3)])
    """

    def __init__(self) -> None:
        self._tokens, self._spans = array("i"), array("i")
        self._token_ends, self._span_ends = array("q", [0]), array("q", [0])

    def __len__(self) -> int:
        return len(self._token_ends) - 1

    def add(self, row: Encoded) -> None:
        """Append a row."""
        self._tokens.extend(row.ids)
        self._token_ends.append(len(self._tokens))
        for span in row.trained:
            self._spans.extend(span)
        self._span_ends.append(len(self._spans))

    def largest_id(self) -> int:
        """Of all rows; -1 where there is no token."""
        return int(np.frombuffer(self._tokens, np.int32).max()) if self._tokens else -1

    def length(self, index: int) -> int:
        """Tokens of a row."""
        return self._token_ends[index + 1] - self._token_ends[index]

    def tokens(self, index: int) -> NDArray[np.int64]:
        """Ids of a row, int64 [T]."""
        start, stop = self._token_ends[index], self._token_ends[index + 1]
        return np.frombuffer(self._tokens, np.int32)[start:stop].astype(np.int64)

    def trained(self, index: int) -> Iterator[Span]:
        """From, to: the tokens of a row that have a loss."""
        flat = self._spans[self._span_ends[index] : self._span_ends[index + 1]]
        return zip(flat[::2], flat[1::2], strict=True)
