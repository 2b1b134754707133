"""The rows of the study's table, as the methods of one seed and state fill them in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import numpy as np

from influcoder_lightning.studies.fidelity.rank_correlation import aggregated_rho, per_query_rho

log = logging.getLogger(__name__)

Line = dict[str, Any]
"""A line of one of the study's tables, as JSON has it."""


@dataclass
class Board:
    """Scores measured against the exact cosines of held-out queries and samples.

    Attributes:
        exact: [M, N] cosines of uncompressed gradients.
        rows: one dict per method.
        quiet: log nothing.
    """

    exact: np.ndarray
    rows: list[Line] = field(default_factory=list)
    quiet: bool = False

    def add(
        self,
        name: str,
        kind: str,
        scores: np.ndarray,
        *,
        ms: float,
        n_bytes: float,
        n_fit: int,
        **more: float,
    ) -> None:
        """Measure scores [M, N].

        Args:
            name: of the method.
            kind: code, text, forward, feature or baseline.
            scores: higher is more helpful.
            ms: CPU milliseconds per new sample, until it can be compared with a query.
            n_bytes: kept per sample.
            n_fit: samples it learned from.
            **more: further columns.
        """
        row: Line = {
            "name": name,
            "kind": kind,
            "per_query": per_query_rho(scores, self.exact),
            "aggregated": aggregated_rho(scores, self.exact),
            "ms_per_sample": ms,
            "bytes_per_sample": n_bytes,
            "n_fit": n_fit,
            **more,
        }
        self.rows.append(row)
        if self.quiet:
            return
        log.info(
            "%-48s per query %6.3f   aggregated %6.3f   %8.2f ms   %7.0f bytes",
            name,
            row["per_query"],
            row["aggregated"],
            ms,
            n_bytes,
        )


@contextmanager
def cpu_ms(n: int) -> Iterator[list[float]]:
    """CPU milliseconds per item of a block over ``n`` items, as the list's only entry."""
    cost: list[float] = []
    begun = process_time()
    yield cost
    cost.append(1000 * (process_time() - begun) / max(n, 1))
