"""Independent tasks: one after the other in this process, or side by side in those of joblib."""

from __future__ import annotations

import multiprocessing
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(
    tasks: Sequence[T], start: Callable[[], Callable[[T], R]], jobs: int
) -> Iterator[tuple[T, R]]:
    """Each task with its result, as they come.

    Args:
        tasks: what is done.
        start: called once in each process, gives what does a task there. It is pickled where there
            are several processes.
        jobs: processes; each has its share of the cores, or a device.
    """
    jobs = min(jobs, len(tasks))
    if jobs < 2:
        work = start() if tasks else None
        for task in tasks:
            assert work is not None
            yield task, work(task)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor

    key, parent = uuid.uuid4().hex, os.getpid()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    ended = False
    try:
        with parallel_config("loky", inner_max_num_threads=threads):
            done = Parallel(
                n_jobs=jobs, batch_size=1, pre_dispatch=jobs, return_as="generator_unordered"
            )(delayed(_work)(key, parent, jobs, start, number, tasks[number])
              for number in range(len(tasks)))  # fmt: skip
            for number, result in done:
                yield tasks[number], result
        ended = True
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=not ended)


_ready: dict[str, Callable[[Any], Any]] = {}  # of this process


def _work(
    key: str, parent: int, jobs: int, start: Callable[[], Callable[[T], R]], number: int, task: T
) -> tuple[int, R]:
    if os.getppid() != parent:
        os._exit(1)  # it was killed: nobody waits for what is left in the queue
    if key not in _ready:
        _ready.clear()
        _pin(jobs)
        _ready[key] = start()
    return number, _ready[key](task)


def _pin(jobs: int) -> None:
    """Give this process a device, or cores, of its own."""
    found = re.search(r"\d+$", multiprocessing.current_process().name)
    place = (int(found[0]) if found else 0) % jobs
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= jobs:
        os.sched_setaffinity(0, cores[place::jobs])
