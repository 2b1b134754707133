"""What is odd about a pool, counted: empty answers, copies, shared ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    texts = [(row["prompt"], row["response"]) for row in rows]
    first = {text: at for at, text in reversed(list(enumerate(texts)))}
    copies = {at for at, text in enumerate(texts) if first[text] != at}
    near = near_copies([f"{prompt}\n{response}" for prompt, response in texts])
    named = [str(row["id"]) for row in rows if row.get("id") is not None]
    return Census(
        rows=len(rows),
        empty=sum(not response.strip() for _, response in texts),
        copies=len(copies),
        near=len(set(near) - copies),
        shared_ids=len(named) - len(set(named)),
    )
