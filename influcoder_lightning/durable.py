"""Files that are on the disk once they have their name, and checksums to prove it later."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def durable_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to; once it is on the disk it takes the name ``path``, in one step.

    When the block raises, the partial file is removed and an older ``path`` is left as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders; names are durable there without it
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32(path: Path) -> str:
    """Hexadecimal CRC-32 of a file: finds damage (no forgery) at the speed of reading."""
    value, block = 0, bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(block):
            value = zlib.crc32(memoryview(block)[:n], value)
    return f"{value:08x}"
