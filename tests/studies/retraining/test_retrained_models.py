"""Jobs are done once, in any number of processes, and go on after an interruption."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.studies.retraining.removal import loss_change, without_random, without_top
from influcoder_lightning.studies.retraining.retraining import Job, RetrainedModels


@dataclass(frozen=True)
class Start:
    """Losses that tell which job they are of."""

    fail_at: int = -1

    def __call__(self):
        def train(job: Job, adapter: Path) -> list[float]:
            if job.seed == self.fail_at:
                raise KeyboardInterrupt
            return [float(sum(job.members)), float(job.seed)]

        return train


JOBS = [Job((0, 2, i), seed) for i in (3, 4, 5) for seed in (0, 1)]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_once(tmp_path, processes):
    models = RetrainedModels(tmp_path / "models", {"lr": 1}, "q")
    shown = []
    models.train(
        [*JOBS, JOBS[0]], Start(), processes, lambda done, total: shown.append((done, total))
    )
    assert shown == [(i, 6) for i in range(1, 7)]
    for job in JOBS:
        assert models.known(job).tolist() == [sum(job.members), job.seed]
    models.train(JOBS, lambda: pytest.fail("nothing is left to train"), processes)


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path):
    models = RetrainedModels(tmp_path / "models", {"lr": 1}, "q")
    with pytest.raises(KeyboardInterrupt):
        models.train(JOBS, Start(fail_at=1))
    assert models.known(JOBS[0]) is not None
    assert models.known(JOBS[1]) is None
    shown = []
    RetrainedModels(tmp_path / "models", {"lr": 1}, "q").train(
        JOBS, Start(), show=lambda done, total: shown.append(total)
    )
    assert shown == [5] * 5


def test_models_of_other_settings_or_damaged_ones_are_refused(tmp_path):
    folder = tmp_path / "models"
    models = RetrainedModels(folder, {"lr": 1, "pool": "a"}, "q")
    models.train(JOBS[:1], Start())
    with pytest.raises(ConfigError, match=r"other settings \(lr\)"):
        RetrainedModels(folder, {"lr": 2, "pool": "a"}, "q")
    for text in ('{"losses": ["x"]}', "[1]", "{"):
        (folder / "losses_q" / f"{JOBS[0].name}.json").write_text(text)
        with pytest.raises(ConfigError, match="damaged"):
            models.known(JOBS[0])
    with pytest.raises(ConfigError, match="at least 1"):
        models.train(JOBS, Start(), 0)


def test_a_removal_takes_away_the_best_and_is_compared_with_its_own_seed(tmp_path):
    scores = np.array([0.1, 0.9, 0.5, 0.9, -1.0, 0.0, 0.2, 0.3, 0.4, 0.05])
    assert without_top(scores, 0.1) == (0, 2, 3, 4, 5, 6, 7, 8, 9)
    assert without_top(scores, 0.3) == (0, 4, 5, 6, 7, 8, 9)
    assert without_top(scores, 0.001) == without_top(scores, 0.1)
    assert len(without_random(10, 0.3, 0)) == 7
    assert without_random(10, 0.3, 0) != without_random(10, 0.3, 1)
    for share in (0.0, 0.99, 1.0):
        with pytest.raises(ConfigError, match="leaves none"):
            without_top(scores, share)
    folder = tmp_path / "models"
    models = RetrainedModels(folder, {}, "q")
    full, some = [Job((0, 1, 2), s) for s in (0, 1)], [Job((1, 2), s) for s in (0, 1)]
    known = ([1.0, 2.0], [3.0, 4.0], [1.5, 2.0], [3.0, 5.0])
    for job, losses in zip([*full, *some], known, strict=True):
        (folder / "losses_q" / f"{job.name}.json").write_text(json.dumps({"losses": losses}))
    assert loss_change(models, some, full).tolist() == [[0.5, 0.0], [0.0, 1.0]]
    with pytest.raises(ConfigError, match="lacks a model"):
        loss_change(models, [Job((0,), 0)], full)
