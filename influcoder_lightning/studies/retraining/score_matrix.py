"""Scores of queries x samples from elsewhere, in the order of a study's pool and queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.score_files import load_scores, mapped_array
from influcoder_lightning.studies.retraining.truth import Truth


def load_matrix(path: Path, truth: Truth) -> NDArray[np.float64]:
    """[M, N] scores of a file; higher = more helpful.

    ``.npy`` is positional: a matrix [M, N] (queries x samples), or a vector [N] that says the same
    of every query. Anything else that `load_scores` reads has one score per sample.

    Raises:
        RankingError: no such file, another shape than the study's, or scores that are not finite.
    """
    if path.suffix.lower() != ".npy":
        ranking = load_scores(path)
        if ranking.metadata.get("positional"):
            if len(ranking) != len(truth.sample_ids):
                raise RankingError(
                    f"{path} has {len(ranking)} scores for {len(truth.sample_ids)} samples."
                )
            return _whole(path, np.tile(ranking.scores, (len(truth.query_ids), 1)))
        return truth.scores_of(ranking)
    values = mapped_array(path)
    shape = (len(truth.query_ids), len(truth.sample_ids))
    if values.dtype.kind not in "fiub" or values.shape not in (shape, shape[1:]):
        raise RankingError(
            f"{path} holds {values.dtype} of shape {values.shape}; the study has {shape[0]} "
            f"queries and {shape[1]} samples"
        )
    return _whole(path, np.broadcast_to(values, shape).astype(np.float64))


def _whole(path: Path, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise RankingError(f"{path} lacks scores, or has some that are not finite")
    return values
