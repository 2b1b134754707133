"""Removal curves: how much worse do the queries fare without the samples that score best?

Counterfactual removal as of Koh and Liang 2017 (arXiv 1703.04730) and Hooker et al. 2019, ROAR
(arXiv 1806.10758): retrain without the top share, beside as many samples drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.studies.retraining.retraining import Job, RetrainedModels


def without_top(scores: NDArray[np.floating], share: float) -> tuple[int, ...]:
    """Positions that are left after the ``round(share * N)`` (at least one) best are removed."""
    n = _n_removed(len(scores), share)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return tuple(np.sort(order[n:]).tolist())


def without_random(n_samples: int, share: float, seed: int) -> tuple[int, ...]:
    """The same with samples drawn at random."""
    n = _n_removed(n_samples, share)
    order = np.random.default_rng([seed, n]).permutation(n_samples)
    return tuple(np.sort(order[n:]).tolist())


def loss_change(
    models: RetrainedModels, jobs: Sequence[Job], full: Sequence[Job]
) -> NDArray[np.float64]:
    """[len(jobs), M] loss of each query after a job minus that of the full pool and same seed.

    Raises:
        ConfigError: a job that is not trained, or a seed without a full model.
    """
    of_seed = {job.seed: models.known(job) for job in full}
    changes = []
    for job in jobs:
        losses, before = models.known(job), of_seed.get(job.seed)
        if losses is None or before is None:
            raise ConfigError(f"{models.folder} lacks a model of the removal curve; run on.")
        changes.append(losses - before)
    return np.stack(changes)


def _n_removed(n_samples: int, share: float) -> int:
    n = max(1, round(share * n_samples))
    if not 0 < share < 1 or n >= n_samples:
        raise ConfigError(f"lds.removal: {share} of {n_samples} samples leaves none to train on.")
    return n
