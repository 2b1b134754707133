"""Less than a store: some of its samples, in memory, or its queries without any sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray
from influcoder_lightning.influence.request import Column, StoreReader, TextEncoder

_READ = 8192


class _QueriesOfStore:
    """Queries and towers of a store, as methods read them."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store
        self.query_ids: IdArray = store.query_ids

    def query_codes(self, window: int | None = None, end: bool = False) -> NDArray[np.float16]:
        """As of the store."""
        return self._store.query_codes(window, end=end)

    def query_records(self, window: int | None = None, end: bool = False) -> pd.DataFrame:
        """As of the store."""
        return self._store.query_records(window, end=end)

    def query_texts(self) -> Sequence[TextRow] | None:
        """As of the store."""
        return self._store.query_texts()

    def text_tower(self) -> TextEncoder:
        """As of the store."""
        return self._store.text_tower()


class PartOfStore(_QueriesOfStore):
    """The rows of some samples; ranks like the store itself, of which it is read in one pass.

    What methods take from all rows of a store (the curvature of `fisher`) comes from these rows
    alone, so that scores differ a little from those of the whole store.

    Args:
        store: to read from.
        keep: which of its rows, bool [R]; at least one.
        columns: that will be asked for, `code` among them for rankings by codes; the others are
            left on the disk.

    Raises:
        RankingError: no row to keep.
    """

    def __init__(self, store: StoreReader, keep: NDArray[np.bool_], columns: Sequence[str]) -> None:
        if not keep.any():
            raise RankingError("no row of the store is of the samples that were chosen")
        super().__init__(store)
        self.sample_ids: IdArray = store.sample_ids[keep]
        known = set(store.column_names())
        parts: dict[str, list[Column]] = {name: [] for name in columns if name in known}
        for rows, block in store.blocks(list(parts), _READ):
            for name, values in block.items():
                parts[name].append(values[keep[rows]])  # a copy: the block is overwritten
        self._columns = {name: np.concatenate(values) for name, values in parts.items()}

    def column_names(self) -> list[str]:
        """Columns that were read."""
        return list(self._columns)

    def column(self, name: str) -> Column:
        """One column of all rows [n]."""
        return self._columns[name]

    def blocks(
        self, names: Sequence[str], block_rows: int
    ) -> Iterator[tuple[slice, dict[str, Column]]]:
        """As of the store."""
        for start in range(0, len(self.sample_ids), block_rows):
            rows = slice(start, min(start + block_rows, len(self.sample_ids)))
            yield rows, {name: self._columns[name][rows] for name in names}


class StoreWithoutRows(_QueriesOfStore):
    """What a store says of samples that it never saw: its queries and towers.

    A method that reads its rows would rank the samples that were valued; here that is an error.

    Args:
        store: to read from.
        method: that ranks, for the message.
    """

    def __init__(self, store: StoreReader, method: str) -> None:
        super().__init__(store)
        self.method = method
        self.path = getattr(store, "path", None)

    @property
    def sample_ids(self) -> IdArray:
        """Raises `RankingError`."""
        raise self._refusal()

    def column_names(self) -> list[str]:
        """Raises `RankingError`."""
        raise self._refusal()

    def column(self, name: str) -> Column:
        """Raises `RankingError`."""
        raise self._refusal()

    def blocks(
        self, names: Sequence[str], block_rows: int
    ) -> Iterator[tuple[slice, dict[str, Column]]]:
        """Raises `RankingError`."""
        raise self._refusal()

    def __getattr__(self, name: str) -> Any:
        """Whatever else a store has, which is of its rows."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._refusal()

    def _refusal(self) -> RankingError:
        return RankingError(
            f"method {self.method!r} reads the rows of the samples that were valued, and these "
            "samples are new; use 'encoder', or a method on text"
        )
