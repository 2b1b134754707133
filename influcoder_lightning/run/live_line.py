"""The one live line on the terminal."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.table import Column
from rich.text import Text


class Display:
    """Stages that go on, one under the other; on only while there are some and somebody watches."""

    def __init__(self) -> None:
        self._depth = 0
        self._progress: Progress | None = None
        self._tasks: list[TaskID] = []
        self._streams: list[tuple[logging.StreamHandler[Any], Any]] = []

    @property
    def on(self) -> bool:
        """Whether something is shown."""
        return self._progress is not None

    def push(self, name: str, total: int | None) -> None:
        """Show one more."""
        if not self._depth and _watched():
            self._start()
        self._depth += 1
        if self._progress is not None:
            self._tasks.append(self._progress.add_task(name, total=total, note=""))

    def pop(self) -> None:
        """Take the last one away."""
        self._depth -= 1
        if self._progress is not None:
            self._progress.remove_task(self._tasks.pop())
            if not self._depth:
                self._stop()

    def update(self, completed: int, note: str | None) -> None:
        """What the last one shows."""
        if self._progress is not None:
            self._progress.update(self._tasks[-1], completed=completed)
            if note is not None:
                self._progress.update(self._tasks[-1], note=note)

    def _start(self) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            "{task.description}",
            _Bar(bar_width=16),
            _Figures(Column(no_wrap=True, overflow="ellipsis")),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else it is somebody's file or pipe
        )
        self._progress.start()
        # While it is on, rich's stand-ins for the streams write above the live line; the log's
        # handlers hold the streams themselves.
        for handler in logging.getLogger().handlers:
            stream = getattr(handler, "stream", None)
            if isinstance(handler, logging.StreamHandler) and stream in _streams():
                shown = sys.stdout if stream is sys.__stdout__ else sys.stderr
                self._streams.append((handler, handler.setStream(shown)))

    def _stop(self) -> None:
        assert self._progress is not None
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams.clear()
        self._progress.stop()
        self._progress = None


class _Bar(BarColumn):
    """Only where it says something: a stage of unknown length has the spinner."""

    def render(self, task: Task) -> Any:
        return super().render(task) if task.total else Text("")


class _Figures(ProgressColumn):
    """``120 of 500  0:00:12 left  loss 1.23``."""

    def render(self, task: Task) -> Text:
        parts = []
        if task.total:
            parts.append(f"{int(task.completed):,} of {int(task.total):,}")
            if task.time_remaining is not None:
                parts.append(f"{timedelta(seconds=int(task.time_remaining))} left")
        if task.fields["note"]:
            parts.append(task.fields["note"])
        elif not task.total:
            parts.append(str(timedelta(seconds=int(task.elapsed or 0))))
        return Text("  ".join(parts))


def _streams() -> tuple[TextIO, ...]:
    return tuple(s for s in (sys.__stdout__, sys.__stderr__) if s is not None and s.isatty())


def _watched() -> bool:
    """On a terminal; and not in a job beside others, which would draw over each other."""
    return sys.stderr.isatty() and multiprocessing.current_process().name == "MainProcess"
