"""Leaks between pool, query and evaluation rows."""

import warnings
from collections.abc import Sequence

from influcoder_lightning.data.rows import Row
from influcoder_lightning.errors import DataError

_EXAMPLES = 3


def check_overlap(
    pool: Sequence[Row], query: Sequence[Row], evaluation: Sequence[Row] | None = None
) -> list[str]:
    """Refuse rows that would make an evaluation meaningless; warn about the rest.

    Two rows overlap when prompt and response are the same, or when both give the same ``id``
    (compared as text; the index of a row without an id does not count).

    Returns:
        The warnings, also issued through :mod:`warnings`: overlap between pool and query.

    Raises:
        DataError: On overlap of query and evaluation, or of pool and evaluation.
    """
    if evaluation is not None:
        for name, rows in (("query", query), ("pool", pool)):
            found = _overlapping(rows, evaluation)
            if found:
                raise DataError(
                    f"{_sentence(found, name, 'evaluation')} Remove them from one of the two (or "
                    "rename ids that mean different rows): the evaluation would measure memory."
                )
    found = _overlapping(pool, query)
    if not found:
        return []
    message = f"{_sentence(found, 'pool', 'query')} Their scores are inflated by the match."
    warnings.warn(message, stacklevel=2)
    return [message]


def _overlapping(rows: Sequence[Row], others: Sequence[Row]) -> list[str]:
    """What each of ``rows`` shares with ``others``, for those that share something."""
    texts = {(row["prompt"], row["response"]) for row in others}
    ids = {str(row["id"]) for row in others if row.get("id") is not None}
    found = []
    for index, row in enumerate(rows):
        name = row.get("id")
        if name is not None and str(name) in ids:
            found.append(f"id {name!r}")
        elif (row["prompt"], row["response"]) in texts:
            found.append(f"row {index} {row['prompt'][:60]!r}")
    return found


def _sentence(found: Sequence[str], name: str, other: str) -> str:
    more = ", ..." if len(found) > _EXAMPLES else ""
    return (
        f"{len(found)} {name} row(s) are also {other} rows, by id or by prompt and response: "
        f"{', '.join(found[:_EXAMPLES])}{more}."
    )
