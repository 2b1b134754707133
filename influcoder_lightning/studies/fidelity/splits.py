"""Disjoint samples to learn from, to choose an epoch by, and to measure on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from influcoder_lightning.data.rows import Row
from influcoder_lightning.errors import DataError

PARTS = ("fit", "select", "eval")


@dataclass(frozen=True)
class Splits:
    """Pool and query rows of the three parts, each row in one of them."""

    pool: Mapping[str, list[Row]]
    query: Mapping[str, list[Row]]


def draw_splits(
    pool: Sequence[Row],
    query: Sequence[Row],
    n_pool: Mapping[str, int],
    n_query: Mapping[str, int],
    seed: int,
) -> Splits:
    """Random disjoint parts; rows with the text of an earlier one are left out.

    Args:
        pool: candidates, of which ``n_pool[part]`` go to each part.
        query: likewise.
        n_pool: rows of each of ``PARTS``.
        n_query: rows of each of ``PARTS``.
        seed: of the draw.

    Raises:
        DataError: there are too few different rows.
    """
    taken: set[tuple[str, str]] = set()
    draw = random.Random(seed)
    drawn = []
    for name, rows, sizes in (("query", query, n_query), ("pool", pool, n_pool)):
        unique = []
        for row in draw.sample(list(rows), len(rows)):
            text = (row["prompt"], row["response"])
            if text not in taken:
                taken.add(text)
                unique.append(row)
        needed = sum(sizes[part] for part in PARTS)
        if len(unique) < needed:
            raise DataError(
                f"data.{name} has {len(unique)} different rows that no other file has, and the "
                f"study needs {needed} ({dict(sizes)}). Lower fidelity.n_{name}.* or give more."
            )
        parts, start = {}, 0
        for part in reversed(PARTS):  # what is measured on does not depend on the size of fit
            parts[part] = unique[start : start + sizes[part]]
            start += sizes[part]
        drawn.append(parts)
    return Splits(query=drawn[0], pool=drawn[1])
