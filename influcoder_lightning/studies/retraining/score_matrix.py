"""Scores of queries x samples from elsewhere, in the order of a study's pool and queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.files import why_no_file
from influcoder_lightning.influence.score_files import load_scores
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
    if why := why_no_file(path):
        raise RankingError(f"{path}: {why}; give a score file")
    try:
        values = np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise RankingError(f"{path} cannot be read as numbers: {error}") from error
    shape = (len(truth.query_ids), len(truth.sample_ids))
    if values.ndim == 1 and len(values) == shape[1]:
        values = np.tile(values, (shape[0], 1))
    if values.shape != shape:
        raise RankingError(
            f"{path} has the shape {values.shape}; the study has {shape[0]} queries and {shape[1]} "
            "samples"
        )
    return _whole(path, values)


def _whole(path: Path, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise RankingError(f"{path} lacks scores, or has some that are not finite")
    return values
