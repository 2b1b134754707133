"""Sketches of a segment: float32 rows, little-endian, in a flat file beside it (``.f4``).

They are nearly all of a segment's bytes. So they go to the disk from where they lie in memory, and
from there to the store through the page cache, without an HDF5 image of them in between. The tables
follow each other in the order of `schema.TABLES`, a table's features in that of `schema.FEATURES`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from influcoder_lightning.errors import StoreError
from influcoder_lightning.files import write_durably

Part = tuple[str, str]
"""A table and one of its features."""
_DTYPE = np.dtype("<f4")


def flat_path(segment: Path) -> Path:
    """Where the sketches of a segment file are."""
    return segment.with_suffix(".f4")


def write_flat(path: Path, blocks: Iterable[np.ndarray]) -> str:
    """Write blocks [n, D] one after the other; returns their CRC-32.

    Raises:
        OSError: the disk does not take it; nothing is left behind.
    """
    crc = 0

    def counted() -> Iterator[memoryview]:
        nonlocal crc
        for block in blocks:
            data = np.ascontiguousarray(block, dtype=_DTYPE).data
            crc = zlib.crc32(data, crc)
            yield data

    write_durably(path, counted())
    return f"{crc:08x}"


def map_flat(path: Path, n_rows: Mapping[Part, int], width: int) -> dict[Part, np.ndarray]:
    """[n, D] read-only sketches of each feature of each table, read when used.

    Args:
        path: of the flat file.
        n_rows: of each of them, in the order of the file.
        width: D.

    Raises:
        StoreError: the file is of another size.
    """
    total = sum(n_rows.values())
    size = path.stat().st_size
    if size != total * width * _DTYPE.itemsize or not total:
        raise StoreError(
            f"{path} has {size:,} bytes, but its segment {total:,} sketches of {width:,} numbers."
        )
    data = np.memmap(path, dtype=_DTYPE, mode="r", shape=(total, width)).view(np.ndarray)
    sketches, start = {}, 0
    for part, n in n_rows.items():
        sketches[part] = data[start : start + n]
        start += n
    return sketches
