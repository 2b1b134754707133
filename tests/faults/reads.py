"""A disk that cannot read where it is told to: files below one folder that are opened and read.

Python's files and those that HDF5 opens by name are counted; at operation ``at`` (from 1; 0: never)
one fails with EIO, once. Not seen is what is mapped or read by other libraries in C.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import h5py


class FailingReads:
    """Mounted over ``root``; counts opening and reading, and fails once."""

    def __init__(self, root: Path, at: int = 0) -> None:
        self.root, self.at, self.count = str(root), at, 0
        self._open, self._hdf5 = io.open, h5py.File

    @contextmanager
    def mounted(self) -> Iterator[FailingReads]:
        """Every file below the folder is opened for reading through this disk."""
        with ExitStack() as stack:
            for place, name, opens in (
                (io, "open", self._opening),
                (builtins, "open", self._opening),
                (h5py, "File", self._opening_hdf5),
            ):
                stack.enter_context(mock.patch.object(place, name, opens))
            yield self

    @property
    def happened(self) -> bool:
        """The fault was met."""
        return 0 < self.at <= self.count

    def operation(self, path: str) -> None:
        """Count one; fail where it is the one."""
        self.count += 1
        if self.count == self.at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def _reads(self, path: Any, mode: str) -> bool:
        named = isinstance(path, str | os.PathLike) and not set(mode) & set("wax+")
        return named and os.path.abspath(path).startswith(self.root + os.sep)

    def _opening(self, path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not self._reads(path, mode):
            return self._open(path, mode, *args, **options)
        self.operation(os.fspath(path))
        file = _File(self, path)
        if options.get("buffering") == 0:
            return file
        buffered = io.BufferedReader(file)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, "utf-8")

    def _opening_hdf5(self, path: Any, mode: str = "r", **options: Any) -> Any:
        if not self._reads(path, mode):
            return self._hdf5(path, mode, **options)
        self.operation(os.fspath(path))
        return self._hdf5(_File(self, path), mode, **options)


class _File(io.FileIO):
    """A file of that disk; h5py takes its text for its name."""

    def __init__(self, disk: FailingReads, path: Any) -> None:
        super().__init__(os.fspath(path), "rb")
        self._disk, self._path = disk, os.fspath(path)

    def __repr__(self) -> str:
        return str(self._path)

    def readinto(self, buffer: Any) -> int:
        self._disk.operation(self._path)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._disk.operation(self._path)
        return super().readall()

    def read(self, size: int = -1) -> bytes:
        self._disk.operation(self._path)
        return super().read(size)
