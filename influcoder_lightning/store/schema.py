"""The layout of ``influence.h5``.

::

    /                     attributes: format, schema_version, created_by, complete, note,
                          config, lora, projector, versions, counts, parts, cost (JSON texts)
    /layers               name, out_features, in_features, offset: order of the flattened gradient
    /windows              one entry per window, see WINDOW_COLUMNS
    /rows                 one entry per sample at a captured step, see ROW_COLUMNS
    /rows/sample_id       int64, or where an id is text a column of text, see `text`
    /rows/features/NAME   code [N, d] float16, norm [N] float32, length [N] float32 (of the unit
                          sketch in the code space), optionally sketch [N, D] float32
    /queries              one entry per query and take, see QUERY_COLUMNS; features as for rows
    /query_text           JSON {"prompt", "response"} of each query, where known

A take is one pass over the queries: at the start of a window, or (``at_end``) at the end of fit.
Rows and queries have the feature "gradient". Where a run captured optimizer updates, its rows have
the feature "update" beside it, with the same parts: codes are of the same space, so that they
compare with the queries' codes.

Every data set has a Fletcher-32 checksum for each chunk, which HDF5 compares whenever it reads; the
file's own structures are of the kind that has checksums, too (HDF5 1.10), and nothing lies in the
heap of variable-length values, which has none. Schema 1 (release 0.1) had no checksums, text of
variable length and no weights; its stores are read and added to as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from influcoder_lightning.errors import DataError
from influcoder_lightning.store import text

FILE_NAME = "influence.h5"
FORMAT = "influcoder"
SCHEMA_VERSION = 2
SCHEMAS = (1, 2)  # that are read
# Without a lower bound the structures of HDF5 1.0 are written; an upper one keeps 1.10 reading.
HDF5_VERSIONS = ("v110", "v110")
GRADIENT, UPDATE = "gradient", "update"
FEATURES = (GRADIENT, UPDATE)

ROW_COLUMNS = {
    "window": "i4",
    "epoch": "i4",
    "step": "i8",  # optimizer steps done before the one the row was captured in
    "n_tokens": "i4",
    "loss": "f4",
    "learning_rate": "f4",
    "tower_version": "i2",
    "weight": "f4",  # of the sample's loss in the training loss of its step
    "n_prompt_tokens": "f4",  # in front of the sample's first response token
}
# Columns that earlier stores lack: all of their entries are NaN, so they are floats.
ADDED_COLUMNS = {"weight", "n_prompt_tokens"}
QUERY_COLUMNS = {
    "query": "i4",  # position among the queries
    "window": "i4",
    "at_end": "u1",
    "n_tokens": "i4",
    "loss": "f4",
    "tower_version": "i2",
}
WINDOW_COLUMNS = {
    "window": "i4",
    "epoch": "i4",  # in which the window starts
    "start_step": "i8",
    "end_step": "i8",
    "tower_version": "i2",
    "drift": "f4",  # mean over queries of the cosine between the two ends' sketches
    "n_rows": "i8",
}
LAYER_COLUMNS = {"out_features": "i8", "in_features": "i8", "offset": "i8"}
TABLES = {"rows": ROW_COLUMNS, "queries": QUERY_COLUMNS}
FEATURE_DTYPES = {"code": "f2", "norm": "f4", "length": "f4", "sketch": "f4"}
_CHUNK_BYTES = 1 << 18


def completed(table: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a table, NaN for those of `ADDED_COLUMNS` that are not given."""
    added = ADDED_COLUMNS & TABLES[table].keys()
    return dict.fromkeys(added, np.float32("nan")) | dict(columns)


def feature(part: str, name: str = GRADIENT) -> str:
    """Where a part of a feature is inside a table."""
    return f"features/{name}/{part}"


def store_file(path: str | Path) -> Path:
    """The store file that ``path`` means: the file, a store folder or a run folder."""
    path = Path(path)
    if path.is_dir():
        own, nested = path / FILE_NAME, path / "influence"
        inside = (nested / FILE_NAME).exists() or (nested / "segments").is_dir()
        return nested / FILE_NAME if inside and not own.exists() else own
    return path


def create_table(parent: h5py.Group, name: str, columns: dict[str, str]) -> h5py.Group:
    """An empty table: one growing dataset per column."""
    table = parent.create_group(name)
    for column, dtype in columns.items():
        create_column(table, column, dtype)
    return table


def create_column(
    table: h5py.Group, name: str, dtype: Any, shape: tuple[int, ...] = ()
) -> h5py.Dataset:
    """An empty column of a table, with checksums; ``shape`` is the shape of one entry."""
    dtype = np.dtype(dtype)
    rows = max(1, _CHUNK_BYTES // (dtype.itemsize * int(np.prod(shape, dtype=np.int64))))
    return table.create_dataset(
        name,
        shape=(0, *shape),
        maxshape=(None, *shape),
        chunks=(min(rows, 4096), *shape),
        dtype=dtype,
        fletcher32=True,
    )


def create_text_column(parent: h5py.Group, name: str) -> h5py.Group:
    """An empty column of text."""
    return create_table(parent, name, text.PARTS)


def append(column: text.Column, values: Any) -> None:
    """Append entries to a column of numbers or text."""
    if isinstance(column, h5py.Group):
        size = len(column["utf8"])
        for part, data in text.encoded(list(values), size).items():
            append(column[part], data)
        return
    start = column.shape[0]
    column.resize(start + len(values), axis=0)
    column[start:] = values


def refuse_mixed(ids: Sequence[int | str], as_text: bool) -> None:
    """Raise ``DataError`` unless all ids are text, or all are integers."""
    wrong = [i for i in ids if isinstance(i, str) != as_text]
    if wrong:
        raise DataError(
            f"sample ids mix integers and text (for example {wrong[0]!r}): give all samples ids of "
            "one kind."
        )


def id_dtype(ids: Sequence[int | str]) -> Any:
    """int64 when all ids are integers, else variable-length text."""
    return np.dtype("i8") if all(isinstance(i, int) for i in ids) else h5py.string_dtype()


def encode_ids(ids: Sequence[int | str], dtype: Any) -> np.ndarray:
    """Ids as a data set of one of these types stores them.

    Raises:
        DataError: the column holds integers and an id is text, or the reverse.
    """
    as_text = h5py.check_string_dtype(dtype) is not None
    refuse_mixed(ids, as_text)
    return np.array(ids, dtype=object if as_text else np.int64)


def decode_ids(column: text.Column, chosen: Any = slice(None)) -> np.ndarray:
    """Ids of all or the chosen entries, as [N] int64 or [N] object array of str."""
    if text.is_text(column):
        return text.read_text(column, chosen)
    return np.asarray(column[chosen])
