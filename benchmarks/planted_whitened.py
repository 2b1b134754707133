"""`whitened`: cosines of codes after the directions that all samples share are shrunk.

    score(z) = mean over queries q, mean over rows t of z: cos(W c_t(z), W c_w(t)(q)),
    W = (C + damping * trace(C) / d * I)^(-1/2),    C = mean over rows: c c^T

with c unit codes, and C over all rows whose codes are of one version of the tower. Gradients
of instruction data have a few directions in common (the format, the register of the answers) that
outweigh what only one sample teaches; W is what the inverse of a damped Gauss-Newton matrix does to
an influence function (TRAK, Park et al. 2023, arXiv 2303.14186; LoGRA, Choe et al. 2024, arXiv
2405.13954), within the code space.

Importing this module makes it available as ``store.rank("whitened")``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.influence import Ranking, register
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import unit_rows

Matrix = NDArray[np.float32]


@register("whitened")
def whitened(request: Request, *, damping: float = 1.0) -> Ranking:
    """Mean whitened cosine with the queries; all codes are in memory.

    Args:
        request: what was asked.
        damping: in mean eigenvalues of C; as it grows, the score becomes that of `cosine`.
    """
    store = request.require_store()
    positions = request.query_positions()
    samples = SampleRows(store.sample_ids)
    windows, codes = store.column("window"), store.column("code")
    total = np.zeros((len(samples), len(positions)), np.float32)
    for _, taken in store.windows.groupby("tower_version"):
        alike = np.flatnonzero(np.isin(windows, taken["window"]))
        units = unit_rows(codes[alike])
        transform = whitening(units, damping)
        units = unit_rows(units @ transform)
        for window in taken["window"]:
            inside = windows[alike] == window
            queries = unit_rows(request.query_features(window, positions)) @ transform
            scores = units[inside] @ unit_rows(queries).T
            np.add.at(total, samples.index[alike[inside]], scores)
    total /= samples.counts[:, None]
    return Ranking(
        samples.sample_ids,
        total.mean(axis=1, dtype=np.float64),
        per_query=total.T,
        query_ids=store.query_ids[positions],
        metadata={"damping": damping},
    )


def whitening(units: Matrix, damping: float) -> Matrix:
    """W [d, d] of unit codes [n, d]."""
    values, vectors = np.linalg.eigh(units.T.astype(np.float64) @ units / len(units))
    values = np.maximum(values, 0)
    scales = 1 / np.sqrt(values + damping * values.mean())
    return np.asarray((vectors * scales) @ vectors.T, dtype=np.float32)
