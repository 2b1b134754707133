"""The stages of a run: shown while they go on, one line in the log for each, their seconds kept.

On a terminal the stage that goes on has a live line, with a bar and the time left where its length
is known. Where nobody watches there are no bars and no control codes, only the log's lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from influcoder_lightning.report.press.units import duration
from influcoder_lightning.run.live_line import Display

log = logging.getLogger(__name__)
SIGN_OF_LIFE = 300.0  # seconds between lines about a long stage that nobody watches

_display = Display()
_open: list[Stage] = []
_seconds: dict[str, float] = {}


class Stage:
    """A stage that goes on; call it with how much of its total is done.

    Attributes:
        result: what came out of it, for the log's line.
    """

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.result = name, total, ""
        self.seconds_within = 0.0  # of the stages inside this one
        self._begun = self._spoke = perf_counter()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return perf_counter() - self._begun

    @property
    def watched(self) -> bool:
        """Whether somebody sees what is shown."""
        return _display.on

    def __call__(self, completed: int, note: str | None = None) -> None:
        """Show that so much is done, and beside it a short note; None leaves the note as it is."""
        if _display.on:
            _display.update(completed, note)
        elif perf_counter() - self._spoke > SIGN_OF_LIFE:
            self._spoke = perf_counter()
            log.info("%s: %s", self.name, self._so_far(completed))

    def _so_far(self, completed: int) -> str:
        if not self.total or not completed:
            return f"{completed:,} done"
        left = self.seconds / completed * (self.total - completed)
        return f"{completed:,} of {self.total:,}, about {duration(left)} left"


@contextmanager
def stage(name: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
    """A stage of the run, which may hold others.

    When it ends, the log gets a line ``name: result (seconds)``; where there is no result to tell,
    only if it took a second. Without a terminal a stage whose length is known also says that it
    begins, since that may be hours before.

    Args:
        name: what is done, for people: "retraining". Equal names add up in `seconds`.
        total: how many steps, samples or models it takes; None: not known.
        unit: what they are, for the log.

    Yields:
        What shows the progress; set its ``result`` to say what came out.

    Example::

        with stage("retraining", total=len(arms)) as done:
            for number, arm in enumerate(arms):
                done(number, arm)
                ...
            done.result = f"{len(arms)} arms"
    """
    current = Stage(name, total)
    _display.push(name, total)
    _open.append(current)
    if total and not _display.on:
        log.info("%s: %s to do", name, f"{total:,} {unit}".rstrip())
    try:
        yield current
    finally:
        _open.pop()
        _display.pop()
    taken = current.seconds
    if _open:
        _open[-1].seconds_within += taken
    _seconds[name] = _seconds.get(name, 0.0) + taken - current.seconds_within
    if current.result or taken >= 1:
        result = current.result or (f"{total:,} {unit}".rstrip() if total else "done")
        log.info("%s: %s%s", name, result, f" ({duration(taken)})" if taken >= 1 else "")


def seconds() -> dict[str, float]:
    """Seconds of each finished stage of the present run, in the order of their ends.

    Those of the stages inside it do not count, so that they add up to what the run took.
    """
    return dict(_seconds)


def begin() -> None:
    """Forget the stages of an earlier run: a launcher runs several in one process."""
    _seconds.clear()
