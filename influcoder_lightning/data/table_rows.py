"""Rows of CSV, TSV and Parquet files; all cells of a CSV are text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from influcoder_lightning.data.json_forms import json_forms
from influcoder_lightning.data.parquet_bounds import check_footer, largest_page, too_much
from influcoder_lightning.data.unread import UnreadRow
from influcoder_lightning.errors import DataError
from influcoder_lightning.files import LONGEST, most_unpacked

_TIMES = 64  # its own size that a Parquet file may unpack to; long prompts that repeat pack so
_NAMES = ("id", "task", "group")
_ROWS, _BATCH = 256, 2**26  # that are unpacked at once; and bytes, unless one text is longer


def csv_rows(path: Path, file: BinaryIO, delimiter: str) -> Iterator[UnreadRow]:
    """The rows of a CSV file, whose first line names its columns.

    Raises:
        DataError: no UTF-8, a column twice or without a name, or a row of other columns.
    """
    csv.field_size_limit(LONGEST)
    # newline="": the csv module looks for the ends of lines itself, since a quoted cell has some.
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            names = next(reader, [])
            if not all(names) or len(set(names)) < len(names):
                raise DataError(
                    f"{path}:1: the first line must name the columns, each once, and is "
                    f"{delimiter.join(names)!r:.200}."
                )
            for cells in reader:
                if not cells:  # an empty line
                    continue
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(names):
                    raise DataError(
                        f"{where}: {len(cells)} cells for the {len(names)} columns "
                        f"{', '.join(names):.200}. A cell with a {delimiter!r} or a line break "
                        "needs quotes around it."
                    )
                yield UnreadRow(where, partial(_csv_row, names, cells))
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: no valid CSV: {error}.") from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: not UTF-8 behind line {reader.line_num}. Save the file as UTF-8."
            ) from error


def _csv_row(names: Sequence[str], cells: Sequence[str]) -> dict[str, object]:
    """Where a name is missing, a CSV has an empty cell."""
    pairs = zip(names, cells, strict=True)
    return {name: None if name in _NAMES and not cell else cell for name, cell in pairs}


def parquet_rows(path: Path) -> Iterator[UnreadRow]:
    """The rows of a Parquet file, a few hundred of them in memory.

    Raises:
        DataError: it is damaged, or unpacks to far more than it has.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    most, size, index = most_unpacked(path, _TIMES), 0, 0
    try:
        check_footer(path)
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            # A text that repeats is kept once: each row of a batch may be as long as a page.
            longest = largest_page(path, file.metadata, _TIMES)
            n_rows = max(1, min(_ROWS, _BATCH // max(longest, 1)))
            for batch in file.iter_batches(n_rows, use_threads=False):
                size += batch.nbytes
                if size > most:
                    raise too_much(path, _TIMES, f"{size:,} bytes and more")
                for row in batch.to_pylist():
                    where = f"{path}: row {index}"
                    yield UnreadRow(where, partial(json_forms, row, where))
                    index += 1
    except (OSError, ValueError, pa.ArrowException) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path}: cannot be read as Parquet: {lines[0]:.300}.") from error
