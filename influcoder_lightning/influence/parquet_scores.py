"""Scores of a Parquet file, read within bounds that its footer is held against first.

Parquet packs: a hundred kilobytes may stand for gigabytes, in repeated text or in pages. Only the
two columns that are needed are read, a piece at a time, and what they unpack to is counted.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.files import most_unpacked
from influcoder_lightning.ids import as_id_array, id_keys, repeated
from influcoder_lightning.influence.parquet_pages import pages

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_COLUMNS = ("sample_id", "score")
_MOST_FOOTER = 2**24  # bytes; a footer is parsed at once
_MOST_PAGES = 2**18  # a writer puts a megabyte into each, or twenty thousand rows
_BATCH = 65_536  # rows
_TIMES = 16  # its own size that a file may unpack to; ids and scores pack to a fifth
_ROW = 16  # bytes that a row takes at least, once unpacked


def read_parquet(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Ids as text [N], and scores [N], NaN where there is none.

    Raises:
        RankingError: the file is damaged, lacks a column, unpacks to far more than it has, or an
            id occurs twice.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise RankingError(f"{path}: reading Parquet needs `pip install pyarrow`") from error
    try:
        _check_footer_size(path)
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            _check_columns(file.schema_arrow, path)
            _check_size(file.metadata, path)
        # Repeated ids stay indices of one text, until they are found to be repeated.
        with pq.ParquetFile(path, memory_map=True, read_dictionary=["sample_id"]) as file:
            return _read(file, path)
    except RankingError:
        raise
    except Exception as error:  # a damaged file may raise anything that Arrow raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RankingError(f"{path} cannot be read as Parquet: {lines[0]:.200}") from error


def _check_footer_size(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(-min(8, path.stat().st_size), 2)
        tail = file.read(8)
    if int.from_bytes(tail[:4], "little") > _MOST_FOOTER:
        raise ValueError(f"its footer declares more than {_MOST_FOOTER:,} bytes")


def _check_columns(schema: pa.Schema, path: Path) -> None:
    import pyarrow.types as kinds

    if missing := sorted(name for name in _COLUMNS if name not in schema.names):
        raise RankingError(f"{path} has no column {', '.join(missing)}")
    kind = schema.field("score").type
    if not (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)):
        raise RankingError(f"{path}: column score is {kind}; expected numbers")
    kind = schema.field("sample_id").type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    if not (kinds.is_integer(kind) or kinds.is_string(kind) or kinds.is_large_string(kind)):
        raise RankingError(f"{path}: column sample_id is {kind}; ids are integers or strings")


def _check_size(metadata: pq.FileMetaData, path: Path) -> None:
    """Hold rows and unpacked bytes of the two columns against the size of the file."""
    most = most_unpacked(path, _TIMES)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
    places = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path in _COLUMNS]
    chunks = [group.column(i) for group in groups for i in places]
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    if rows * _ROW > most or size > most:
        raise _too_much(path, f"{rows:,} rows and {size:,} bytes of ids and scores")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            _check_pages(chunks, view, path)
        finally:
            view.release()


def _check_pages(chunks: list[pq.ColumnChunkMetaData], data: memoryview, path: Path) -> None:
    """The same with what the pages say, which is what a reader takes memory for."""
    most, size, count = most_unpacked(path, _TIMES), 0, 0
    for chunk in chunks:
        start = chunk.data_page_offset
        if chunk.dictionary_page_offset is not None:
            start = min(start, chunk.dictionary_page_offset)
        for page in pages(data, start, min(start + chunk.total_compressed_size, len(data))):
            size, count = size + page.unpacked, count + 1
            if size > most or count > _MOST_PAGES:
                raise _too_much(path, f"{count:,} pages of {size:,} bytes and more")
            if page.repeats_text:
                raise RankingError(
                    f"{path}: ids that share their beginnings (DELTA_BYTE_ARRAY) may unpack to any "
                    "size; write them plain or with a dictionary"
                )


def _too_much(path: Path, what: str) -> RankingError:
    most = most_unpacked(path, _TIMES)
    return RankingError(
        f"{path}: it tells of {what}, more than the {most:,} bytes that a file of its size may "
        "unpack to; write it as CSV, or without compression"
    )


def _read(file: pq.ParquetFile, path: Path) -> tuple[list[str], NDArray[np.float64]]:
    keys: list[str] = []
    scores: list[NDArray[np.float64]] = []
    size, most = 0, most_unpacked(path, _TIMES)
    for batch in file.iter_batches(_BATCH, columns=list(_COLUMNS), use_threads=False):
        ids = _ids(batch.column("sample_id"), path)
        keys += ids
        scores.append(_numbers(batch.column("score")))
        size += sum(map(len, ids)) + _ROW * len(ids)
        if size > most:
            raise _too_much(path, f"ids of more than {most:,} characters")
    return keys, np.concatenate(scores) if scores else np.zeros(0)


def _ids(column: pa.Array, path: Path) -> list[str]:
    import pyarrow as pa

    if isinstance(column, pa.DictionaryArray):
        places = column.indices.to_pylist()
        if (again := repeated(places)) and again[0] is not None:
            name = column.dictionary[again[0]].as_py()
            raise RankingError(f"{path}: the id {name!r:.60} occurs twice; keep one score for each")
        column = column.dictionary_decode()
    try:
        return id_keys(as_id_array(column.to_pylist()))
    except RankingError as error:
        raise RankingError(f"{path}: {error}") from error


def _numbers(column: pa.Array) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers: Any = pc.cast(column, pa.float64(), safe=False)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
