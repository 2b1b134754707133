"""A file for libraries that take a failing disk badly.

HDF5 that cannot write, or is interrupted, crashes its process when the file is closed, and torch
reports a full disk as a mistake of its own. So they write to an `Output`, which never fails towards
them: it keeps the first error, writes nothing more, and raises that error to whoever asks. Signals
wait until then, too.

::

    sound   --------a write fails------------->   failed   (nothing more reaches the disk)
      |                                             |
    close: `check` passes                       close: `check` raises what happened first
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from influcoder_lightning.files import write_all
from influcoder_lightning.store.signals import DeferredSignals


class Output(io.RawIOBase):
    """An unbuffered file to read and write, as libraries expect one.

    Args:
        path: of the file; made if it is not there, else it keeps its content.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._at = 0
        self._failure: BaseException | None = None
        self._signals = DeferredSignals()
        self._signals.begin()

    def check(self) -> None:
        """Raise what has gone wrong, if anything has; signals that came meanwhile act now.

        Raises:
            OSError: of the disk.
        """
        self._signals.deliver()
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Check when the block ends; what a library raises in it came second."""
        try:
            yield
        except Exception:
            self.check()
            raise
        self.check()

    def write(self, data: Any) -> int:
        """Write all of ``data``, or nothing more for ever."""
        view = memoryview(data).cast("B")
        if self._failure is None:
            try:
                write_all(self._handle, view, self._at)
            except BaseException as failure:
                self._failure = failure
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Make the file ``size`` bytes long."""
        size = self._at if size is None else size
        if self._failure is None:
            try:
                os.ftruncate(self._handle, size)
            except BaseException as failure:
                self._failure = failure
        return size

    def readinto(self, buffer: Any) -> int:
        """Read what is there into ``buffer``."""
        view = memoryview(buffer).cast("B")
        n = os.preadv(self._handle, [view], self._at)
        self._at += n
        return n

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (os.fstat(self._handle).st_size if start is None else start)
        return self._at

    def tell(self) -> int:
        """Where the next byte is read or written."""
        return self._at

    def readable(self) -> bool:
        """It can be read."""
        return True

    def writable(self) -> bool:
        """It can be written."""
        return True

    def seekable(self) -> bool:
        """It has places to go to."""
        return True

    def close(self) -> None:
        """Let go of the file; what has gone wrong is for `check` to say."""
        if self.closed:
            return
        os.close(self._handle)
        super().close()
        self._signals.end()
        self._signals.deliver()
