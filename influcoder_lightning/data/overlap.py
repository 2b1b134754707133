"""Leaks between pool, query and evaluation rows."""

import warnings
from collections.abc import Iterable, Sequence

from influcoder_lightning.data.rows import Row
from influcoder_lightning.errors import DataError

_EXAMPLES = 3


def check_overlap(
    pool: Iterable[Row], query: Sequence[Row], evaluation: Sequence[Row] | None = None
) -> list[str]:
    """Refuse rows that would make an evaluation meaningless; warn about the rest.

    Two rows overlap when prompt and response are the same, or when both give the same ``id``
    (compared as text; the index of a row without an id does not count).

    Returns:
        The warnings, also issued through :mod:`warnings`: overlap between pool and query.

    Raises:
        DataError: On overlap of query and evaluation, or of pool and evaluation.
    """
    watch = PoolOverlap(query, evaluation)
    for row in pool:
        watch.see(row)
    return watch.verdict()


class PoolOverlap:
    """`check_overlap` for a pool whose rows come by one after the other.

    Raises:
        DataError: On overlap of query and evaluation.
    """

    def __init__(self, query: Sequence[Row], evaluation: Sequence[Row] | None = None) -> None:
        self._query, self._evaluation = _Overlap(query), _Overlap(evaluation or ())
        leaked = _Overlap(evaluation or ())
        for row in query:
            leaked.see(row)
        leaked.refuse("query")

    def see(self, row: Row) -> None:
        """Take notice of the next row of the pool."""
        self._query.see(row)
        self._evaluation.see(row)

    def verdict(self) -> list[str]:
        """What `check_overlap` returns, raises and warns of."""
        self._evaluation.refuse("pool")
        if not self._query.count:
            return []
        message = f"{self._query.sentence('pool', 'query')} Their scores are inflated by the match."
        warnings.warn(message, stacklevel=3)
        return [message]


class _Overlap:
    """Counts the rows that share something with `others`, and remembers the first few."""

    def __init__(self, others: Sequence[Row]) -> None:
        self._texts = {(row["prompt"], row["response"]) for row in others}
        self._ids = {str(row["id"]) for row in others if row.get("id") is not None}
        self._seen, self.count, self._examples = 0, 0, list[str]()

    def see(self, row: Row) -> None:
        name, found = row.get("id"), ""
        if name is not None and str(name) in self._ids:
            found = f"id {name!r}"
        elif (row["prompt"], row["response"]) in self._texts:
            found = f"row {self._seen} {row['prompt'][:60]!r}"
        self._seen += 1
        if found:
            self.count += 1
            self._examples = [*self._examples, found][:_EXAMPLES]

    def sentence(self, name: str, other: str) -> str:
        more = ", ..." if self.count > _EXAMPLES else ""
        return (
            f"{self.count} {name} row(s) are also {other} rows, by id or by prompt and response: "
            f"{', '.join(self._examples)}{more}."
        )

    def refuse(self, name: str) -> None:
        if self.count:
            raise DataError(
                f"{self.sentence(name, 'evaluation')} Remove them from one of the two (or "
                "rename ids that mean different rows): the evaluation would measure memory."
            )
