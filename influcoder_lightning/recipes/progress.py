"""What a person sees while a recipe runs: bars with a time estimate, and no noise."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)

# Remarks about setups that the recipes choose on purpose.
_KNOWN = (
    ".*does not have many workers.*",
    ".*module.*in eval mode at the start of training.*",
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*is deprecated.*",
    ".*max_epochs.*was not set.*",
    ".*GPU available but not used.*",
    ".*Experiment logs directory.*exists and is not empty.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    ".*You are using a CUDA device.*",
    ".*is_gradient_checkpointing.*is deprecated.*",
)
_NOISY = (
    "lightning.pytorch",
    "lightning.fabric",
    "lightning_fabric",
    "transformers",
    "sentence_transformers",
    "huggingface_hub",
    "httpx",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's own messages off, the warnings that matter as one line each."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    bars = _transformers_bars(False)
    with warnings.catch_warnings():
        for message in _KNOWN:
            warnings.filterwarnings("ignore", message=message)
        warnings.showwarning = _one_line
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            if bars:
                _transformers_bars(True)


def _transformers_bars(on: bool) -> bool:
    from transformers.utils import logging as transformers_logging

    was_on = bool(transformers_logging.is_progress_bar_enabled())
    (
        transformers_logging.enable_progress_bar
        if on
        else transformers_logging.disable_progress_bar
    )()
    return was_on


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if not issubclass(category, DeprecationWarning):
        log.warning("warning: %s", " ".join(str(message).split()))


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """A bar ``what  12 of 40  0:00:09``; yields ``set(done)``. Nothing where no one watches."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(separator=" of "),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


class ShowSteps(Callback):
    """Tells a bar how many optimizer steps are done.

    Args:
        show: gets the steps of this run plus ``before``.
        before: steps of earlier runs that share the bar.
    """

    def __init__(self, show: Callable[[int], Any], before: int = 0) -> None:
        self._show, self._before = show, before

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Move the bar."""
        self._show(self._before + trainer.global_step)
