"""`unrolled`: follow the run backwards, and let later steps forget what earlier ones did.

    v_T = c_end(q),  score(row t) = (lr_t / lr_max) c_t^T v,  and past step k:
    v <- v - rate (lr_k / lr_max) mean over the rows i of step k: c_i c_i^T v
    score(z) = mean over queries q, sum over rows t of z

c is the unit gradient within the code space. What a step of gradient descent at k did to the
parameters reaches the end of training multiplied by the Jacobians (I - lr H) of all later steps;
here H is the Fisher of each step's own batch, from the rows that were recorded. Sources: Hara,
Nitanda and Maehara 2019, arXiv 1906.08473; with the Fisher of recorded gradients Wang et al. 2024,
Data Value Embedding, arXiv 2412.09538. Unit gradients for the reason given in `curvature.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import unit_rows


@register(
    "unrolled",
    needs={"gradients", "queries"},
    says="Ranks by the effect of a sample's steps at the end of the run, after later "
    "steps made forget.",
)
def unrolled(request: Request, *, rate: float = 1.0) -> Ranking:
    """Sum of unit gradients' effects on the queries at the end of training.

    Memory: all codes (2 x d bytes a row) and M x N scores.

    Args:
        request: what was asked.
        rate: how much of a direction that all gradients of a step share the step makes forget, at
            the largest learning rate; 0: nothing is forgotten. At most 1, where it is all.

    Raises:
        RankingError: a rate outside 0 to 1; no lengths of codes or no learning rates in the store;
            rows of several tower versions, whose codes do not compare.
    """
    if not 0 <= rate <= 1:
        raise RankingError(f"rate={rate!r} must lie between 0 and 1")
    store, positions = request.require_store(), request.query_positions()
    if "code_length" not in store.column_names():
        raise RankingError(
            "method 'unrolled' needs the lengths of the codes, which this store does not have; "
            "value again, or use 'cosine'"
        )
    versions = np.unique(store.column("tower_version"))
    windows = store.column("window")
    ends = store.query_records(int(windows.max()), end=True)
    if len(versions) > 1 or int(ends["tower_version"].iloc[0]) != versions[0]:
        raise RankingError(
            "method 'unrolled' follows one run in one code space, and this store has "
            f"{len(versions)} tower versions; value with co_train=False, or use 'fisher', which "
            "compares rows within their window"
        )
    rates = store.column("learning_rate").astype(np.float64)
    if not np.isfinite(rates).all() or not rates.any():
        raise RankingError(
            "method 'unrolled' needs the learning rates of a training run; features taken without "
            "training have none, use 'fisher'"
        )
    rates /= rates.max()
    end = unit_rows(request.query_features(int(windows.max()), positions, end=True))
    v = (end * ends["code_length"].to_numpy()[positions, None]).astype(np.float64)
    codes, lengths = store.column("code"), store.column("code_length")
    scores = np.empty((len(positions), len(codes)))
    for rows in _steps_backwards(store.column("step")):
        c = unit_rows(codes[rows]).astype(np.float64) * lengths[rows, None]
        effects = v @ c.T
        scores[:, rows] = effects * rates[rows]
        v -= rate * (effects * rates[rows]) @ c / len(rows)
    samples = SampleRows(store.sample_ids)
    total = np.zeros((len(samples), len(positions)))
    samples.add(total, slice(0, len(codes)), scores.T)
    return Ranking(
        samples.sample_ids,
        total.mean(axis=1),
        per_query=total.T.astype(np.float32),
        query_ids=store.query_ids[positions],
        metadata={"n_rows": len(codes), "n_queries": len(positions), "rate": rate},
    )


def _steps_backwards(steps: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Positions of the rows of each optimizer step, last step first."""
    order = np.argsort(steps, kind="stable")
    starts = np.flatnonzero(np.diff(steps[order])) + 1
    return np.split(order, starts)[::-1]
