"""Folders that `datasets` wrote (``save_to_disk``), opened after a look at what they unpack to.

Such a folder is read where it lies on the disk, so that opening one costs nothing; a packed one, or
rows that stand for far more text than the folder holds, were made by somebody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from influcoder_lightning.data.json_forms import json_forms
from influcoder_lightning.data.unread import UnreadRow
from influcoder_lightning.errors import DataError
from influcoder_lightning.files import n_written, read_whole, why_no_file

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

# Times its own size that the rows of a folder may take as text: equal texts may be kept once.
_TIMES, _FREE = 64, 2**26
_ROW = 64  # bytes that a row takes at least


def is_dataset_folder(path: Path) -> bool:
    """Whether ``save_to_disk`` wrote a folder: a data set, or one with several splits."""
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def unread_dataset_rows(path: Path, split: str | None = None) -> Iterator[UnreadRow]:
    """The rows of a folder one after the other, with their JSON forms, none read before its call.

    Args:
        path: the folder.
        split: which, where it has several.

    Raises:
        DataError: the folder has several splits and none is named, is damaged, or unpacks to far
            more than it holds.
    """
    from datasets import load_from_disk

    path = _split_of(path, split)
    with _damage_named(path):
        files = _data_files(path)
        most = _FREE + _TIMES * sum(n_written(file) for file in files)
        dataset = load_from_disk(str(path))
        n_rows = len(dataset)
    reader = _Reader(path, dataset, most)
    for index in range(n_rows):
        yield UnreadRow(f"{path}: row {index}", partial(reader.row, index))


class _Reader:
    """Reads rows, and counts what they have taken."""

    def __init__(self, path: Path, dataset: datasets.Dataset, most: int) -> None:
        self._path, self._dataset, self._most = path, dataset, most
        self._size = 0

    def row(self, index: int) -> dict[str, object]:
        """The row at a place."""
        where = f"{self._path}: row {index}"
        with _damage_named(self._path):
            values = dict(self._dataset[index])
        row = json_forms(values, where)
        self._size += _ROW + _length(row)
        if self._size > self._most:
            raise DataError(
                f"{where}: the rows take more than {self._most:,} bytes, {_TIMES} times what the "
                "folder has. If they are meant to, export them as JSONL."
            )
        return row


def _split_of(path: Path, split: str | None) -> Path:
    """The folder of one split."""
    if not (path / "dataset_dict.json").is_file():
        return path
    splits = sorted(child.name for child in path.iterdir() if child.is_dir())
    if split is None:
        raise DataError(f"{path}: has several splits. Give data.split: {', '.join(splits)}.")
    if split not in splits:
        raise DataError(f"{path}: no split {split!r:.60}; it has {', '.join(splits)}.")
    return path / split


def _data_files(path: Path) -> list[Path]:
    """The Arrow files that ``state.json`` names, each a plain file of this folder."""
    if not (path / "state.json").exists():
        return []  # `datasets` says what is wrong
    files = []
    for listed in json.loads(read_whole(path / "state.json"))["_data_files"]:
        file = path / listed["filename"]
        if file.parent != path or why_no_file(file):
            raise ValueError(f"state.json names {listed['filename']!r:.60}, no file of the folder")
        _refuse_packed(file)
        files.append(file)
    return files


def _refuse_packed(file: Path) -> None:
    """`save_to_disk` packs nothing, and what is packed may unpack to any size at once."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        for message in pa.ipc.MessageReader.open_stream(source):
            if message.type != "schema" and _is_packed(message.metadata):
                raise ValueError(f"{file.name} is compressed, which save_to_disk does not do")


def _is_packed(metadata: pa.Buffer) -> bool:
    """Whether the FlatBuffers table of a batch has the field ``compression``.

    See https://arrow.apache.org/docs/format/Columnar.html: a Message's third field is its header,
    a RecordBatch's fourth the compression; a DictionaryBatch's second is a RecordBatch.
    """
    data = memoryview(metadata)
    message = _number(data, 0, 4)
    batch = _field(data, message, 2)
    if batch is not None and data[_slot(data, message, 1) or 0] == 2:  # a dictionary
        batch = _field(data, batch, 1)
    return batch is not None and _slot(data, batch, 3) is not None


def _slot(data: memoryview, table: int, field: int) -> int | None:
    """Where a table keeps a field; None where it has none."""
    vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    if 4 + 2 * field >= _number(data, vtable, 2):
        return None
    offset = _number(data, vtable + 4 + 2 * field, 2)
    return table + offset if offset else None


def _field(data: memoryview, table: int, field: int) -> int | None:
    """Where the table begins that a field points at."""
    slot = _slot(data, table, field)
    return None if slot is None else slot + _number(data, slot, 4)


def _number(data: memoryview, at: int, size: int) -> int:
    if not 0 <= at <= len(data) - size:
        raise ValueError("a message that ends before it says what it is")
    return int.from_bytes(data[at : at + size], "little")


def _length(value: object) -> int:
    """Characters of all texts in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _length(item) for key, item in value.items())
    return sum(8 + _length(item) for item in value) if isinstance(value, list) else 0


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged folder may raise anything that Arrow or JSON raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            f"{path}: cannot be read as a `datasets` folder ({reason:.300}). Write it again with "
            "Dataset.save_to_disk, or export the rows as JSONL."
        ) from error
