"""How many threads a work is done with: the number that its own first pieces were fastest with.

Tensors of a small model are slower on several threads, which mostly wait for each other, and much
slower on a machine that does other work beside. So the first pieces of each kind of work (steps of
a training, batches of a measurement) are timed with all threads and with one, and the rest of it is
done with what was faster. More threads than one must be worth their while: a tenth faster.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import TypeVar

import torch

log = logging.getLogger(__name__)
_PIECES = 3  # timed with each number; the first of them warms up
_GAIN = 0.9  # of the time with one thread that more threads may take at the most
_T = TypeVar("_T")


class ThreadChoice:
    """Tries numbers of threads on the first pieces of a work, and keeps the fastest.

    Args:
        work: what is done, for the log's line.
        most: threads that there are.
    """

    def __init__(self, work: str, most: int) -> None:
        self._work, self._most = work, most
        tried = [most, 1] if most <= 8 else [most, most // 4, 1]
        self._tried: dict[int, list[float]] = {n: [] for n in tried}
        self.chosen: int | None = most if most == 1 else None
        self._begun = 0.0

    def begin(self) -> None:
        """A piece begins: set the threads that it is to have."""
        torch.set_num_threads(self.chosen or self._next())
        self._begun = perf_counter()

    def end(self, size: float = 1.0) -> None:
        """A piece of this size, such as its tokens, has ended."""
        if self.chosen is not None:
            return
        self._tried[self._next()].append((perf_counter() - self._begun) / max(size, 1.0))
        if all(len(times) >= _PIECES for times in self._tried.values()):
            self._choose()

    def _next(self) -> int:
        return next(n for n, times in self._tried.items() if len(times) < _PIECES)

    def _choose(self) -> None:
        best = {n: min(times[1:]) for n, times in self._tried.items()}
        enough = {n: time for n, time in best.items() if n == 1 or time < _GAIN * best[1]}
        self.chosen = min(enough, key=enough.__getitem__)
        torch.set_num_threads(self.chosen)
        log.info(
            "%s: %d of %d threads, the fastest of those tried (%s)",
            self._work,
            self.chosen,
            self._most,
            ", ".join(f"{n}: {time / best[self.chosen]:.1f} times as long"
                      for n, time in best.items() if n != self.chosen),
        )  # fmt: skip


_choices: dict[str, ThreadChoice] = {}
_given: int | None = None


def begin_run(threads: int | None) -> None:
    """Forget what was chosen before; ``threads`` holds for all work of the run, if it is given.

    ``OMP_NUM_THREADS`` of the environment is such a number, too: launchers set it.
    """
    global _given
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    _given = threads or (int(allowed) if allowed.isdigit() and int(allowed) else None)
    _choices.clear()
    torch.set_num_threads(_given or os.cpu_count() or 1)


def choice(work: str) -> ThreadChoice:
    """The choice for a kind of work, the same for all of it in this run."""
    if work not in _choices:
        elsewhere = torch.accelerator.is_available()  # the threads wait for it
        most = 1 if _given or elsewhere else torch.get_num_threads()
        _choices[work] = ThreadChoice(work, most)
        if _given or elsewhere:
            _choices[work].chosen = torch.get_num_threads()
    return _choices[work]


def paced(batches: Iterable[_T], work: str) -> Iterator[_T]:
    """The batches, each worked on with the threads of `choice`."""
    deciding = choice(work)
    for batch in batches:
        deciding.begin()
        yield batch
        deciding.end(n_tokens(batch))


def n_tokens(batch: object) -> float:
    """Token ids in a batch, padding included; 1 where it has none."""
    ids = batch.get("input_ids") if isinstance(batch, dict) else None
    return float(ids.numel()) if isinstance(ids, torch.Tensor) else 1.0
