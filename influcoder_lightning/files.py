"""Files written so that they are on the disk once they have their name, and read within bounds.

Everything a run keeps is written through this file: in whole, with errors of the disk as
``OSError``. What a valuation keeps goes by `write_new` and `write_all`, unbuffered: buffers of
Python, HDF5 or torch would be written again, or not at all, when nobody expects it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from influcoder_lightning.errors import StoreError

Bytes = bytes | bytearray | memoryview
_PART = ".part"
# A line, or a text that is parsed at once, is only longer where it is damaged: a sparse file can
# declare terabytes, and would take all memory before a parser says anything.
LONGEST = 2**26
_UNPACKED_FREE = 2**26
_HOLES = 3  # times what was written: file systems that pack make holes of long rows of zeros


@contextmanager
def durable_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; once it is on the disk it takes the name ``path``, in one step.

    Parent folders are made, and the suffix is kept, since some writers choose the format by it.
    When the block raises, the partial file is removed and an older ``path`` is left as it was. A
    process that is killed leaves it behind, see `remove_unfinished`.
    """
    target = Path(path)
    durable_folder(target.parent)
    part = target.with_name(f".{target.stem}.{os.getpid()}{_PART}{target.suffix}")
    try:
        yield part
        sync(part)
        os.replace(part, target)
        sync(target.parent)
    except BaseException:
        with suppress(OSError):  # what went wrong before says more
            os.unlink(part)
        raise


@contextmanager
def durable_tree(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to; once all in it is on the disk it takes the name ``folder``.

    A ``folder`` that is there is replaced. When the block raises, the partial one is removed.
    """
    durable_folder(folder.parent)
    part = folder.with_name(f".{folder.name}.{os.getpid()}{_PART}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        os.mkdir(part)
        yield part
        for path in [*part.rglob("*"), part]:
            sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(part, folder)
        sync(folder.parent)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(part)
        raise


@contextmanager
def disk_errors(what: str, hint: str) -> Iterator[None]:
    """A disk that does not take what the block writes, as one error in words.

    Args:
        what: is being written.
        hint: what is safe, and what to do.

    Raises:
        StoreError: instead of ``OSError``, and of what libraries make of a full disk.
    """
    try:
        yield
    except StoreError:  # in words already
        raise
    except Exception as error:
        full = os.strerror(errno.ENOSPC) in str(error) or f"os error {errno.ENOSPC}" in str(error)
        if not full and not isinstance(error, OSError):
            raise
        raise StoreError(f"{what} could not be written ({error!s:.300}). {hint}") from error


def write_durably(path: Path, blocks: Iterable[Bytes]) -> None:
    """Write ``path`` from blocks of bytes, see `durable_path`.

    Raises:
        OSError: the disk does not take it; an older ``path`` is as it was.
    """
    with durable_path(path) as part:
        write_new(part, blocks)


def write_new(path: Path, blocks: Iterable[Bytes]) -> None:
    """Write blocks of bytes to a file, instead of what is in it; nothing is synced."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for block in blocks:
            write_all(handle, block)
    finally:
        os.close(handle)


def copy_blocks(path: Path, size: int = 1 << 22) -> Iterator[bytes]:
    """The content of a file, a block at a time."""
    with path.open("rb", buffering=0) as file:
        while block := file.read(size):
            yield block


def write_all(handle: int, data: Bytes, at: int | None = None) -> None:
    """Write all of ``data`` where the handle stands, or ``at`` an offset.

    Raises:
        OSError: the disk takes none or only a part of it.
    """
    if not memoryview(data).nbytes:
        return
    rest = memoryview(data).cast("B")
    while len(rest):
        n = os.write(handle, rest) if at is None else os.pwrite(handle, rest, at)
        if n == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest, at = rest[n:], None if at is None else at + n


def durable_folder(path: Path) -> Path:
    """Make a folder, and those above it, so that their names are on the disk; returns it."""
    if path.is_dir():
        return path
    durable_folder(path.parent)
    with suppress(FileExistsError):  # another process of the run was faster
        os.mkdir(path)
    sync(path.parent)
    return path


def remove_unfinished(folder: Path) -> None:
    """Remove what `durable_path` left in ``folder`` when its process was killed.

    The caller makes sure that nobody else writes to the folder.
    """
    for path in [*folder.glob(f".*{_PART}"), *folder.glob(f".*{_PART}.*")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


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


def most_unpacked(path: str | os.PathLike[str], times: int) -> int:
    """Bytes that a packed file may unpack to: 64 MiB, and so many times what was written of it.

    What packs better than its kind does was made to fill a memory.
    """
    return _UNPACKED_FREE + times * n_written(path)


def refuse_holes(path: str | os.PathLike[str]) -> None:
    """Raise ``OSError`` for a large file that is mostly holes.

    It declares any size and takes no room; whoever reads it gets zeros.
    """
    size = os.stat(path).st_size
    if size > most_unpacked(path, 1 + _HOLES):
        raise OSError(f"it declares {size:,} bytes, of which {n_written(path):,} were ever written")


def n_written(path: str | os.PathLike[str]) -> int:
    """Bytes of a file outside its holes; all of it where the system does not tell."""
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        n = end = 0 if hasattr(os, "SEEK_DATA") else size
        while end < size:
            try:
                start = file.seek(end, os.SEEK_DATA)
            except OSError as error:
                return n if error.errno == errno.ENXIO else size  # ENXIO: nothing but a hole left
            end = file.seek(start, os.SEEK_HOLE)
            n += end - start
    return n


def why_no_file(path: str | os.PathLike[str]) -> str:
    """Why this is no file that can be read to its end; empty where it is one.

    A pipe or a device is none: opening one waits for ever, or reads for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: NUL in the name
        return "no such file"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "a folder, not a file"
    return "" if stat.S_ISREG(mode) else "no regular file but a pipe, a socket or a device"


def read_whole(path: Path, most: int = LONGEST) -> bytes:
    """The whole of a file that is parsed at once.

    Raises:
        OSError: it is no regular file, or has more than `most` bytes.
    """
    if why := why_no_file(path):
        raise OSError(why)
    if path.stat().st_size > most:
        raise OSError(f"it has more than {most:,} bytes")
    return path.read_bytes()


def is_gguf(name: str) -> bool:
    """Whether a name is one of a GGUF file, from which weights are dequantised."""
    return name.lower().endswith(".gguf") and Path(name).is_file()


def why_no_model(folder: Path) -> str:
    """Why a folder of a saved model must not be opened; empty where it may.

    Libraries that load models open what is there by name, and would wait for a pipe for ever.
    """
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and (why := why_no_file(path)) and why != "no such file":
            return f"{path.relative_to(folder)}: {why}"
    return ""
