"""Scores of a Parquet file, read within bounds that its footer is held against first.

Parquet packs: a hundred kilobytes may stand for gigabytes, in repeated text or in pages. Only the
two columns that are needed are read, a piece at a time, and what they unpack to is counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.parquet_bounds import Unbounded, check_footer, largest_page, too_much
from influcoder_lightning.errors import RankingError
from influcoder_lightning.files import most_unpacked
from influcoder_lightning.ids import as_id_array, id_keys, repeated

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_COLUMNS = ("sample_id", "score")
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
        check_footer(path)
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            _check_columns(file.schema_arrow, path)
            largest_page(path, file.metadata, _TIMES, _COLUMNS)
        # Repeated ids stay indices of one text, until they are found to be repeated.
        with pq.ParquetFile(path, memory_map=True, read_dictionary=["sample_id"]) as file:
            return _read(file, path)
    except RankingError:
        raise
    except Unbounded as error:
        raise RankingError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file may raise anything that Arrow raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RankingError(f"{path} cannot be read as Parquet: {lines[0]:.200}") from error


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
            raise too_much(path, _TIMES, f"ids of more than {most:,} characters")
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
