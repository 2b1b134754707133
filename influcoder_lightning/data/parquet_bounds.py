"""What a Parquet file says that it unpacks to, held against its size before any of it is unpacked.

Parquet packs: a hundred kilobytes may stand for gigabytes, in repeated text or in pages.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from influcoder_lightning.data.parquet_pages import pages
from influcoder_lightning.files import most_unpacked

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_MOST_FOOTER = 2**24  # bytes; a footer is parsed at once
_MOST_PAGES = 2**18  # a writer puts a megabyte into each, or twenty thousand rows
_ROW = 16  # bytes that a row takes at least, once unpacked


class Unbounded(ValueError):
    """A file that tells of far more than its size allows; its text says what and what to do."""


def check_footer(path: Path) -> None:
    """Raise ``ValueError`` for a footer that is too large to be parsed at once."""
    with path.open("rb") as file:
        file.seek(-min(8, path.stat().st_size), 2)
        tail = file.read(8)
    if int.from_bytes(tail[:4], "little") > _MOST_FOOTER:
        raise ValueError(f"its footer declares more than {_MOST_FOOTER:,} bytes")


def largest_page(
    path: Path, metadata: pq.FileMetaData, times: int, columns: Collection[str] | None = None
) -> int:
    """Bytes of the largest page once unpacked, which no single value is longer than.

    Args:
        path: the file.
        metadata: its footer.
        times: its own size that it may unpack to, see `files.most_unpacked`.
        columns: which will be read; None: all.

    Raises:
        Unbounded: the columns unpack to more.
        ValueError: it is damaged.
    """
    most = most_unpacked(path, times)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
    places = [
        i
        for i in range(metadata.num_columns)
        if columns is None or metadata.schema.column(i).path in columns
    ]
    chunks = [group.column(i) for group in groups for i in places]
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    if rows * _ROW > most or size > most:
        raise too_much(path, times, f"{rows:,} rows and {size:,} bytes")
    largest = size = count = 0
    # Not closed by hand: an error within holds on to parts of it for as long as it is looked at.
    view = np.memmap(path, np.uint8, "r").data
    for chunk in chunks:
        start = chunk.data_page_offset
        if chunk.dictionary_page_offset is not None:
            start = min(start, chunk.dictionary_page_offset)
        for page in pages(view, start, min(start + chunk.total_compressed_size, len(view))):
            size, count = size + page.unpacked, count + 1
            largest = max(largest, page.unpacked)
            if size > most or count > _MOST_PAGES:
                raise too_much(path, times, f"{count:,} pages of {size:,} bytes and more")
            if page.repeats_text:
                raise Unbounded(
                    "texts that share their beginnings (DELTA_BYTE_ARRAY) may unpack to "
                    "any size; write them plain or with a dictionary"
                )
    return largest


def too_much(path: Path, times: int, what: str) -> Unbounded:
    """The error for a file that tells of ``what``."""
    return Unbounded(
        f"it tells of {what}, more than the {most_unpacked(path, times):,} bytes that a file of "
        "its size may unpack to; write it as CSV, or without compression"
    )
