"""A first look at all rows of a pool, and a last one at the few that are asked for."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

from influcoder_lightning.data.formats import Row
from influcoder_lightning.data.overlap import PoolOverlap
from influcoder_lightning.data.row_files import Source
from influcoder_lightning.data.rows import RowSource, fingerprint_line, unread_rows
from influcoder_lightning.errors import DataError

_EVERY = 10_000  # rows between two signs of progress


@dataclass(frozen=True)
class Survey:
    """What is known of a pool after every row was read and checked once.

    Attributes:
        n_rows: how many it has.
        fingerprint: SHA-256 of ids, prompts and responses in their order, as of a valued pool.
        tasks: task of each row [n_rows], ``"no task"`` where it has none; None where no row has.
        overlap: what of it is also a query or an evaluation row.
    """

    n_rows: int
    fingerprint: str
    tasks: list[str] | None
    overlap: PoolOverlap

    @classmethod
    def of(
        cls,
        source: Source | RowSource,
        overlap: PoolOverlap,
        show: Callable[[int], object] = lambda rows: None,
    ) -> Survey:
        """Read a pool from end to end; all that is kept of a row is 8 bytes for its task.

        Args:
            source: the pool, as `load_rows` takes it.
            overlap: sees every row.
            show: told now and then how many rows were read.

        Raises:
            DataError: as `load_rows`.
        """
        digest, tasks, n_rows = hashlib.sha256(), list[str](), 0
        for n_rows, read in enumerate(unread_rows(source), 1):
            row = read()
            overlap.see(row)
            name = n_rows - 1 if row.get("id") is None else row["id"]
            digest.update(fingerprint_line(row, name))
            tasks.append(sys.intern(row.get("task") or _NO_TASK))  # equal names are one object
            if not n_rows % _EVERY:
                show(n_rows)
        if not n_rows:
            raise DataError(
                f"{source}: no rows. Each line needs a JSON object with prompt and response."
            )
        named = any(task is not _NO_TASK for task in tasks)
        return cls(n_rows, digest.hexdigest(), tasks if named else None, overlap)


_NO_TASK = sys.intern("no task")


def pick_rows(source: Source | RowSource, wanted: Collection[int]) -> dict[int, Row]:
    """The rows at some places of a pool; the others are passed over unread.

    Raises:
        DataError: as `load_rows`, or a place that the pool no longer has.
    """
    found: dict[int, Row] = {}
    places = set(wanted)
    for index, read in enumerate(unread_rows(source)):
        if len(found) == len(places):
            break
        if index in places:
            found[index] = read()
    if lost := sorted(places - set(found)):
        raise DataError(f"{source} has no row {lost[0]} any more; it was changed during the run.")
    return found
