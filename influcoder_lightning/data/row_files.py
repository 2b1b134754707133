"""A path, a pattern of names, a hub name or a list of them -> rows as their files have them.

JSON and CSV are read by the standard library: rows have to come back as they were written, and a
library that puts them into columns first fills in fields and changes types.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from influcoder_lightning.data import hub_rows, json_rows
from influcoder_lightning.data.dataset_folder import is_dataset_folder, unread_dataset_rows
from influcoder_lightning.data.table_rows import csv_rows, parquet_rows
from influcoder_lightning.data.unread import UnreadRow, damage_named
from influcoder_lightning.errors import DataError
from influcoder_lightning.files import most_unpacked, why_no_file

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file, a folder, a pattern (``*``, ``?``, ``[``), a hub name; or several of these."""

_TIMES = 64  # its own size that a packed file may unpack to; rows of one long prompt pack so
_TABLES = {".csv": ",", ".tsv": "\t"}
_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_KNOWN = (*_TABLES, ".jsonl", ".json", ".parquet")
_MARKS = {
    b"PAR1": "Parquet (.parquet)",
    b"ARROW1": "an Arrow file",
    b"\x1f\x8b": "packed by gzip (.gz)",
    b"BZh": "packed by bzip2 (.bz2)",
    b"\x28\xb5\x2f\xfd": "packed by Zstandard (.zst)",
    b"PK\x03\x04": "a ZIP archive (or an .xlsx), which has to be unpacked",
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
KINDS = "JSONL, JSON, CSV or Parquet file (.gz, .bz2, .zst too), or a `datasets` folder"


def raw_rows(
    source: Source, split: str | None = None, revision: str | None = None
) -> Iterator[UnreadRow]:
    """The rows of a source one after the other, none of them parsed before it is asked for.

    Passing over rows costs little more than reading the file, and memory does not grow.

    Args:
        source: what to read. By their names, files are JSON Lines, JSON arrays (``.json``), CSV,
            TSV or Parquet, the first four also packed (``.gz``, ``.bz2``, ``.zst``); a folder is
            one of ``Dataset.save_to_disk``; ``owner/name`` that is no path is a data set of the
            Hugging Face hub.
        split: of the data set, with ``[start:stop]`` where wanted.
        revision: of a hub name: branch, tag or commit.

    Raises:
        DataError: there is nothing to read, or a file is damaged; names it.
        ConfigError: reading it needs a package that is not installed.
    """
    for name in [source] if isinstance(source, str | os.PathLike) else source:
        if is_hub_name(name):
            yield from hub_rows.rows(str(name), split, revision)
            continue
        for file in row_files(name):
            if is_dataset_folder(file):
                yield from unread_dataset_rows(file, split)
                continue
            if split is not None and not file.is_dir():
                raise DataError(f"{file}: a file has no splits; take data.split={split} away.")
            for inner in _files_of(file, split) if file.is_dir() else [file]:
                yield from _file_rows(inner)


def is_hub_name(name: str | os.PathLike[str]) -> bool:
    """Whether a source is ``owner/name`` and no path here."""
    return (
        isinstance(name, str)
        and _HUB_NAME.fullmatch(name) is not None
        and not os.path.lexists(name)
        and _kind(Path(name))[0] not in _KNOWN
        and not os.path.lexists(name.partition("/")[0])
    )


def row_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files and ``datasets`` folders that a path, or a pattern of names, stands for.

    Raises:
        DataError: One is missing, or neither a regular file nor a folder.
    """
    found = [Path(path)]
    if not os.path.lexists(path) and glob.has_magic(os.fspath(path)):
        found = [Path(name) for name in sorted(glob.glob(os.fspath(path)))]
        if not found:
            raise DataError(f"{path}: no such file, and none with a name like this.")
    for file in found:
        if (why := why_no_file(file)) and not os.path.isdir(file):
            raise DataError(f"{file}: {why}. Give a {KINDS}.")
    return found


def _file_rows(path: Path) -> Iterator[UnreadRow]:
    kind, packed = _kind(path)
    if kind == ".parquet":
        yield from parquet_rows(path)
        return
    with damage_named(str(path)), _opened(path, packed) as file:
        if other := _other_kind(file):
            raise DataError(f"{path}: this is {other}, and its name does not say so. Rename it.")
        if kind in _TABLES:
            yield from csv_rows(path, file, _TABLES[kind])
        elif json_rows.first_mark(file) == "[":
            yield from json_rows.array(path, file)
        else:
            yield from json_rows.lines(path, file)


def _other_kind(file: io.BufferedReader) -> str:
    """What a file is by its first bytes, where these are of no text."""
    start = file.peek(8)
    return next((kind for mark, kind in _MARKS.items() if start.startswith(mark)), "")


def _files_of(folder: Path, split: str | None) -> list[Path]:
    """The data files of a folder, as on the hub: of a split those whose name or folder says it."""
    files = sorted(
        p
        for p in folder.rglob("*")
        if _kind(p)[0] in _KNOWN
        and p.name not in _NO_ROWS
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and p.is_file()
    )
    if split is not None:
        inside = [p.relative_to(folder) for p in files]
        files = [
            p
            for p, name in zip(files, inside, strict=True)
            if split in name.parts[:-1] or re.split(r"[-_.]", name.name)[0] == split
        ]
    if not files:
        of_it = "" if split is None else f" of the split {split!r:.60}"
        raise DataError(f"{folder}: a folder without data files{of_it}. Give a {KINDS}.")
    return files


def _kind(path: Path) -> tuple[str, str]:
    """What a file's name says of its content, and of how it is packed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in _UNPACKED else ""
    return suffixes[-1] if suffixes else "", packed


def _opened(path: Path, packed: str) -> io.BufferedReader:
    """The content of a file, unpacked, and no more of it than its size allows."""
    if not packed:
        return path.open("rb")
    return io.BufferedReader(_Bounded(path, _UNPACKED[packed](path)), 2**16)


def _zst(path: Path) -> BinaryIO:
    import pyarrow as pa

    stream: BinaryIO = pa.input_stream(str(path), compression="zstd", buffer_size=2**16)
    return stream


_UNPACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".zst": _zst}


class _Bounded(io.RawIOBase):
    """What a packed file unpacks to, and an error where that is far too much."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__()
        self._path, self._file = path, file
        self._rest = most_unpacked(path, _TIMES)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as much as there is room for."""
        data = self._file.read(len(buffer))
        self._rest -= len(data)
        if self._rest < 0:
            raise DataError(
                f"{self._path}: unpacks to more than {most_unpacked(self._path, _TIMES):,} bytes, "
                f"{_TIMES} times what the file has. If it is meant to, unpack it first."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file, too."""
        self._file.close()
        super().close()
