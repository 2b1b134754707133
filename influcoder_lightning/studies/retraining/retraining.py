"""Models retrained on parts of a pool, and each query's loss afterwards; nothing is trained twice.

A job is one model: the positions it learns from, and a seed. Its LoRA is kept, so that other
queries can be asked later, and so are its losses on these queries, both named after the job. An
interrupted run goes on where it stopped, and several studies share what was trained::

    settings.json                what all models depend on
    adapters/JOB/                the LoRA of a job, as PEFT saves it
    losses_QUERIES/JOB.json      its loss of each query; QUERIES is the queries' fingerprint
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path, read_whole
from influcoder_lightning.side_by_side import side_by_side
from influcoder_lightning.valuation.fingerprint import as_kept

log = logging.getLogger(__name__)
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Job:
    """One model to train.

    Attributes:
        members: positions in the pool that it learns from, sorted.
        seed: of its LoRA and of the order of its data.
    """

    members: tuple[int, ...]
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        digest = hashlib.sha256(",".join(map(str, self.members)).encode()).hexdigest()
        return f"{digest[:24]}_{self.seed}"


Trainer = Callable[[Job, Path], "list[float]"]
"""Trains the model of a job, or loads it where the folder given exists, else saves it there;
returns the loss of each query [M]."""


class RetrainedModels:
    """All jobs done so far, in a folder.

    Args:
        folder: where they are kept.
        settings: what the models depend on, besides the job. They are written into the folder.
        queries: fingerprint of the queries.

    Raises:
        ConfigError: the folder holds models of other settings, or is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object], queries: str) -> None:
        self.folder = folder
        self._losses = folder / f"losses_{queries[:16]}"
        self._settings = json.loads(json.dumps(settings))  # as they are read again
        self._losses.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if not path.exists():
            with durable_path(path) as part:
                part.write_text(json.dumps(self._settings, indent=1), encoding="utf-8")
        elif different := _differences(path, self._settings):
            raise ConfigError(
                f"{folder} holds models of other settings ({', '.join(different)}). Choose another "
                "hydra.run.dir or lds.models, or repeat those settings."
            )

    def known(self, job: Job) -> NDArray[np.float64] | None:
        """[M] loss of each query after a job; None where it was not done yet."""
        path = self._losses / f"{job.name}.json"
        if not path.exists():
            return None
        content = _read_json(path)
        losses = content.get("losses") if isinstance(content, dict) else None
        if not isinstance(losses, list) or not all(isinstance(x, float) for x in losses):
            raise ConfigError(f"{path} is damaged: it holds no losses. Delete it to train anew.")
        return np.array(losses)

    def train(
        self,
        jobs: Iterable[Job],
        start: Callable[[], Trainer],
        processes: int = 1,
        show: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        """Do the jobs that are not done yet, in the order given.

        Args:
            jobs: any; those done before cost nothing.
            start: called once in each process, gives what trains there. It is pickled when there
                are several processes.
            processes: that train side by side.
            show: told how many of the jobs to do are done.

        Raises:
            ConfigError: processes below 1.
        """
        if processes < 1:
            raise ConfigError(f"parallel.jobs={processes} must be at least 1.")
        todo = [job for job in dict.fromkeys(jobs) if self.known(job) is None]
        if not todo:
            return
        tasks = [(job, self._adapter(job)) for job in todo]
        results = side_by_side(tasks, _Started(start), processes)
        for done, ((job, _), losses) in enumerate(results, 1):
            self._keep(job, losses)
            show(done, len(todo))

    def _adapter(self, job: Job) -> Path:
        return self.folder / "adapters" / job.name

    def _keep(self, job: Job, losses: list[float]) -> None:
        with durable_path(self._losses / f"{job.name}.json") as part:
            content = {"seed": job.seed, "n_members": len(job.members), "losses": losses}
            part.write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class _Started:
    """What `side_by_side` starts in each process; can be pickled."""

    start: Callable[[], Trainer]

    def __call__(self) -> Callable[[tuple[Job, Path]], list[float]]:
        trainer = self.start()
        return lambda task: trainer(*task)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_whole(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}); delete it to train anew.") from error


def _differences(path: Path, settings: Mapping[str, object]) -> list[str]:
    old = _read_json(path)
    if not isinstance(old, dict):
        return ["no settings in it"]
    new = as_kept(settings, old, path)
    return [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
