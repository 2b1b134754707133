"""The removal curves of recipe=lds: which models they take, and what these say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.studies.retraining.removal import loss_change, without_random, without_top
from influcoder_lightning.studies.retraining.retraining import Job, RetrainedModels

CONTROL = "random"
Plan = dict[str, dict[float, list[Job]]]


def plan(
    scores: Mapping[str, NDArray[Any]],
    n_samples: int,
    shares: Sequence[float],
    seeds: Sequence[int],
) -> Plan:
    """Method -> share removed -> one job per seed; the random control draws anew for each."""
    curves: Plan = {}
    for name, values in scores.items():
        curves[name] = {
            share: [Job(without_top(values, share), seed) for seed in seeds] for share in shares
        }
    curves[CONTROL] = {
        share: [Job(without_random(n_samples, share, seed), seed) for seed in seeds]
        for share in shares
    }
    return curves


def jobs(plan: Plan, n_samples: int, seeds: Sequence[int]) -> list[Job]:
    """All models the curves take, those on the whole pool first."""
    return full_jobs(n_samples, seeds) + [
        job for curve in plan.values() for some in curve.values() for job in some
    ]


def full_jobs(n_samples: int, seeds: Sequence[int]) -> list[Job]:
    """A model on the whole pool for each seed."""
    return [Job(tuple(range(n_samples)), seed) for seed in seeds]


def curves(
    models: RetrainedModels, plan: Plan, n_samples: int, seeds: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Method -> for each share: mean change of query loss, and its 95 % interval over queries.

    The interval is a bootstrap over queries of the mean over seeds.
    """
    full = full_jobs(n_samples, seeds)
    lines: dict[str, list[dict[str, Any]]] = {}
    for name, curve in plan.items():
        lines[name] = []
        for share, some in sorted(curve.items()):
            change = loss_change(models, some, full).mean(axis=0)
            drawn = np.random.default_rng(0).integers(len(change), size=(1000, len(change)))
            low, high = np.percentile(change[drawn].mean(axis=1), (2.5, 97.5))
            lines[name].append(
                {
                    "share": share,
                    "n_removed": n_samples - len(some[0].members),
                    "mean": float(change.mean()),
                    "ci95": [float(low), float(high)],
                }
            )
    return lines
