"""What is odd about a pool, counted: empty answers, copies, shared ids."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import overload

import numpy as np

from influcoder_lightning.data.formats import TextRow
from influcoder_lightning.data.near_copies import near_copies


@dataclass(frozen=True)
class Census:
    """Counts of rows.

    Attributes:
        rows: all of them.
        empty: whose response has no character but spaces.
        copies: with prompt and response of an earlier row.
        near: nearly those of an earlier row, see `near_copies`; without the copies.
        shared_ids: with the id of an earlier row, which makes them one sample.
    """

    rows: int
    empty: int
    copies: int
    near: int
    shared_ids: int

    def words(self) -> str:
        """The counts, all of them: that there are none is worth knowing, too."""
        return (
            f"{self.empty:,} empty responses, {self.copies:,} copies and {self.near:,} near copies "
            f"of an earlier row, {self.shared_ids:,} rows with the id of an earlier one"
        )


def census(rows: Sequence[TextRow]) -> Census:
    """Count.

    Args:
        rows: as of ``load_rows``.
    """
    texts = _Texts(rows)
    copies = set(_copies(texts))
    named = [str(row["id"]) for row in rows if row.get("id") is not None]
    return Census(
        rows=len(rows),
        empty=sum(not row["response"].strip() for row in rows),
        copies=len(copies),
        near=len(set(near_copies(texts)) - copies),
        shared_ids=len(named) - len(set(named)),
    )


class _Texts(Sequence[str]):
    """Prompt and response of each row as one text, made when it is asked for."""

    def __init__(self, rows: Sequence[TextRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [_text(row) for row in self._rows[place]]
        return _text(self._rows[place])


def _text(row: TextRow) -> str:
    return f"{row['prompt']}\0{row['response']}"


def _copies(texts: Sequence[str]) -> list[int]:
    """Places of texts that an earlier one equals; eight bytes of memory for each."""
    hashes = array("Q")
    for text in texts:
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        hashes.append(int.from_bytes(digest, "little"))
    _, first, group = np.unique(
        np.frombuffer(hashes, np.uint64), return_index=True, return_inverse=True
    )
    earlier = first[group]
    later = np.flatnonzero(earlier < np.arange(len(texts))).tolist()
    return [place for place in later if texts[place] == texts[int(earlier[place])]]
