"""Signals that wait, where an exception out of a handler would do harm.

Python runs a signal's handler between any two of its instructions, also inside a method that C code
has called. HDF5 cannot be told that such a method was interrupted: its process ends.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


class DeferredSignals:
    """Keeps signals from `begin` to `end` for `deliver`, which hands them to their handlers.

    Outside the main thread, where no handler runs, it does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[..., Any]] = {}
        self._kept: list[tuple[int, Any]] = []

    def begin(self) -> None:
        """From now on they wait."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._keep)

    def deliver(self) -> None:
        """Call the handlers of those that came; they may raise, as KeyboardInterrupt."""
        while self._kept:
            number, frame = self._kept.pop(0)
            self._handlers[number](number, frame)

    def end(self) -> None:
        """From now on they do not wait any more; `deliver` has the last ones."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame: Any) -> None:
        self._kept.append((number, frame))
