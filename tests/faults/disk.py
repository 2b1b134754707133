"""A disk that fails where it is told to: the file operations below one folder, counted.

Everything that the package writes goes through functions of `os`, so these are replaced while a
`Disk` is mounted. At operation ``at`` one of these happens:

- ``kill``: the process dies before it, ``kill after``: when half of it is done (a write) or all of
  it. From then on no operation has any effect, also those in ``finally``, as for a dead process.
- ``interrupt``, ``interrupt after``: KeyboardInterrupt before it, or when it is done.
- ``full``: no space, once, after half of a write; ``full for good``: from there on, until `repair`.
- ``io error``: EIO, once; ``broken for good``: from there on, until `repair`.
- ``short``: a write takes half of what it is given, which is no error.

`power_cut` leaves of the folder what was synced: contents of files by their own sync, names by that
of their folder.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

KINDS = (
    "kill",
    "kill after",
    "interrupt",
    "interrupt after",
    "full",
    "full for good",
    "io error",
    "broken for good",
    "short",
    "power cut",
    "power cut, names kept",
)
_WRITES, _NEED_SPACE = ("write", "pwrite"), ("write", "pwrite", "open", "mkdir", "link")


class Killed(BaseException):
    """The process is dead; only the test sees it."""


@dataclass
class Fault:
    """What happens at operation ``at`` (from 1); 0: nothing."""

    kind: str = "none"
    at: int = 0

    @property
    def kills(self) -> bool:
        """Nothing has an effect afterwards."""
        return self.kind.startswith(("kill", "power"))


class Disk:
    """Mounted over ``root``; counts operations, and fails once."""

    def __init__(self, root: Path, fault: Fault | None = None) -> None:
        self.root, self.fault = str(root), fault or Fault()
        self.count, self.frozen, self.failing = 0, False, False
        self.log: list[str] = []
        self._real = {name: getattr(os, name) for name in _WRAPPERS}
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []
        for folder, _, files in os.walk(self.root):
            for name in files:
                self._synced(Path(folder, name))
            self._synced(Path(folder))

    @contextmanager
    def mounted(self):
        """Every file operation below the folder goes through this disk."""
        wrappers = {name: make(self, self._real[name]) for name, make in _WRAPPERS.items()}
        try:
            with mock.patch.multiple(os, **wrappers):
                yield self
        finally:
            for handle in self._held:
                os.close(handle)
            self._held.clear()

    def repair(self) -> None:
        """There is room again, and the disk works."""
        self.failing = False

    @property
    def happened(self) -> bool:
        """The fault was met."""
        return 0 < self.fault.at <= self.count

    def operation(self, name: str, path: str, act: Callable[[], Any], half: Any = None) -> Any:
        """Do ``act``, or what the fault makes of it; ``half`` does half of a write."""
        if self.frozen:
            return None
        self.count += 1
        self.log.append(f"{name} {os.path.relpath(path, self.root)}")
        kind = self.fault.kind
        if self.failing and (kind.startswith("broken") or name in _NEED_SPACE):
            raise _error(errno.EIO if kind.startswith("broken") else errno.ENOSPC, path)
        if self.count != self.fault.at:
            return act()
        if kind == "kill after":
            (half or act)()
        if self.fault.kills:
            self.frozen = True
            raise Killed(self.log[-1])
        if kind == "interrupt after":
            act()
        if kind.startswith("interrupt"):
            raise KeyboardInterrupt(self.log[-1])
        if kind == "short":
            return act() if half is None else half()
        if kind.startswith("full") and name not in _NEED_SPACE:
            return act()  # takes no space
        self.failing = kind.endswith("for good")
        if half is not None:
            half()
        raise _error(errno.ENOSPC if kind.startswith("full") else errno.EIO, path)

    def inside(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The whole path, if it is below the folder."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fspath(path))
        path = os.path.abspath(os.fspath(path))
        return path if path == self.root or path.startswith(self.root + os.sep) else None

    def created(self, path: str) -> None:
        """A new file or folder, of which nothing is on the disk."""
        number = self._number(path)
        self._content.pop(number, None)
        self._names.pop(number, None)

    def synced(self, path: str) -> None:
        """A file's content, or a folder's names, are on the disk."""
        self._synced(Path(path))

    def _synced(self, path: Path) -> None:
        number = self._number(str(path))
        if path.is_dir():
            self._names[number] = {p.name: self._number(str(p)) for p in path.iterdir()}
        else:
            self._content[number] = path.read_bytes()

    def _number(self, path: str) -> int:
        """Of the inode, which is held, so that no other file gets its number."""
        number = os.stat(path).st_ino
        if number not in self._content and number not in self._names:
            self._held.append(self._real["open"](path, os.O_PATH))
        return number

    def power_cut(self, names_kept: bool) -> None:
        """Leave of the folder what was synced.

        Args:
            names_kept: names are there as they were, though they were not synced; contents are not.
        """
        tree: dict[str, bytes | None] = {}
        if names_kept:
            for folder, _, files in os.walk(self.root):
                tree[folder] = None
                for name in files:
                    path = os.path.join(folder, name)
                    tree[path] = self._content.get(os.stat(path).st_ino, b"")
        else:
            self._durable(self.root, os.stat(self.root).st_ino, tree)
        shutil.rmtree(self.root)
        for path, content in tree.items():
            if content is None:
                os.mkdir(path)
            else:
                Path(path).write_bytes(content)

    def _durable(self, path: str, number: int, tree: dict[str, bytes | None]) -> None:
        if number not in self._names:  # a file, or a folder without a durable name in it
            is_file = number in self._content or not self._is_folder(number)
            tree[path] = self._content.get(number, b"") if is_file else None
            return
        tree[path] = None
        for name, inner in self._names[number].items():
            self._durable(os.path.join(path, name), inner, tree)

    def _is_folder(self, number: int) -> bool:
        for handle in self._held:
            if os.fstat(handle).st_ino == number:
                return os.path.isdir(f"/proc/self/fd/{handle}")
        return False


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def _on_path(name: str) -> Callable[[Disk, Any], Any]:
    """Operations on one name: unlink, mkdir, rmdir."""

    def make(disk: Disk, real: Any) -> Any:
        def wrapped(path: Any, *args: Any, **options: Any) -> Any:
            inside = disk.inside(path, options.get("dir_fd"))
            if inside is None:
                return real(path, *args, **options)

            def act() -> None:
                real(path, *args, **options)
                if name == "mkdir":
                    disk.created(inside)

            return disk.operation(name, inside, act)

        return wrapped

    return make


def _on_two(name: str) -> Callable[[Disk, Any], Any]:
    """Operations on two names: replace, rename, link."""

    def make(disk: Disk, real: Any) -> Any:
        def wrapped(source: Any, target: Any, **options: Any) -> Any:
            inside = disk.inside(target)
            if inside is None:
                return real(source, target, **options)
            return disk.operation(name, inside, lambda: real(source, target, **options))

        return wrapped

    return make


def _on_handle(name: str) -> Callable[[Disk, Any], Any]:
    """Operations on an open file: fsync, ftruncate."""

    def make(disk: Disk, real: Any) -> Any:
        def wrapped(handle: int, *args: Any) -> Any:
            inside = disk.inside(handle)
            if inside is None:
                return real(handle, *args)

            def act() -> None:
                real(handle, *args)
                if name == "fsync":
                    disk.synced(inside)

            return disk.operation(name, inside, act)

        return wrapped

    return make


def _on_data(name: str) -> Callable[[Disk, Any], Any]:
    """Writes."""

    def make(disk: Disk, real: Any) -> Any:
        def wrapped(handle: int, data: Any, *at: int) -> int:
            inside = disk.inside(handle)
            if inside is None:
                return real(handle, data, *at)
            data = bytes(data)
            half = max(1, len(data) // 2)
            written = disk.operation(
                name,
                inside,
                lambda: real(handle, data, *at),
                lambda: real(handle, data[:half], *at),
            )
            return len(data) if written is None else written

        return wrapped

    return make


def _opening(disk: Disk, real: Any) -> Any:
    """Opening a file makes it, if it is not there and is to be written."""

    def wrapped(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        inside = disk.inside(path, dir_fd)
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        if inside is None or not writes:
            return real(path, flags, mode, dir_fd=dir_fd)
        if disk.frozen:
            return real(os.devnull, os.O_RDWR)
        if os.path.exists(inside) or not flags & os.O_CREAT:
            return real(path, flags, mode, dir_fd=dir_fd)

        def act() -> int:
            handle = real(path, flags, mode, dir_fd=dir_fd)
            disk.created(inside)
            return handle

        return disk.operation("open", inside, act)

    return wrapped


_WRAPPERS: dict[str, Callable[[Disk, Any], Any]] = {
    "open": _opening,
    "write": _on_data("write"),
    "pwrite": _on_data("pwrite"),
    "fsync": _on_handle("fsync"),
    "ftruncate": _on_handle("ftruncate"),
    "replace": _on_two("replace"),
    "rename": _on_two("rename"),
    "link": _on_two("link"),
    "unlink": _on_path("unlink"),
    "mkdir": _on_path("mkdir"),
    "rmdir": _on_path("rmdir"),
}
