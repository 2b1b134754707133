"""Tasks side by side give what they give one by one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from influcoder_lightning.side_by_side import side_by_side


@dataclass(frozen=True)
class Start:
    fails_at: int = -1

    def __call__(self):
        ready = [0]

        def work(task: int) -> tuple[int, int, int]:
            ready[0] += 1
            if task == self.fails_at:
                raise ValueError(f"task {task} cannot be done")
            return task * task, os.getpid(), ready[0]

        return work


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_done_once_and_each_process_starts_once(jobs):
    found = dict(side_by_side(range(6), Start(), jobs))
    assert {task: square for task, (square, _, _) in found.items()} == {n: n * n for n in range(6)}
    processes = {pid for _, pid, _ in found.values()}
    assert len(processes) <= jobs
    assert (os.getpid() in processes) == (jobs == 1)
    for pid in processes:
        counts = sorted(count for _, own, count in found.values() if own == pid)
        assert counts == list(range(1, len(counts) + 1))


def test_a_failure_ends_them_all():
    with pytest.raises(ValueError, match="task 3 cannot be done"):
        list(side_by_side(range(6), Start(fails_at=3), 2))
