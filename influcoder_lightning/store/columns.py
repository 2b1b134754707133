"""Opens a store file, and reads columns by the names that `InfluenceStore.records` gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from influcoder_lightning.errors import InfluCoderError, StoreError
from influcoder_lightning.store import schema
from influcoder_lightning.store.soundness import check_layout

_FEATURE_PLACES = {
    "code": schema.feature("code"),
    "sketch": schema.feature("sketch"),
    "grad_norm": schema.feature("norm"),
    "code_length": schema.feature("length"),
} | {f"update_{part}": schema.feature(part, schema.UPDATE) for part in schema.FEATURE_DTYPES}
WIDE = frozenset(("code", "sketch", "update_code", "update_sketch"))  # columns of vectors


@contextmanager
def opened_store(path: Path) -> Iterator[h5py.File]:
    """The file, to be read; what goes wrong while it is open is an error about the store.

    Raises:
        StoreError: it is no HDF5 file, is being written, or its values are damaged.
    """
    try:
        file = h5py.File(path, "r")
    except BlockingIOError as error:
        raise StoreError(
            f"{path} is being written by another process; read it when the run is over."
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path} is no readable HDF5 file (truncated, damaged, or something else): {error}"
        ) from error
    with file:
        try:
            yield file
        except InfluCoderError:
            raise
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # What h5py and json raise about values that cannot be what they are said to be.
            reason = str(error) or type(error).__name__
            raise StoreError(
                f"{path} is damaged: {reason:.300}. Restore the file, or value the pool again."
            ) from error


def check_store(file: h5py.File, path: Path) -> None:
    """Raise ``StoreError`` unless it is a store of this schema with everything in its place."""
    name = file.attrs.get("format")
    if not any(_is_scalar(name, word) for word in (schema.FORMAT, schema.FORMAT.encode())):
        raise StoreError(f"{path} is an HDF5 file, but no influence store.")
    version = file.attrs.get("schema_version")
    if not any(_is_scalar(version, number) for number in schema.SCHEMAS):
        raise StoreError(
            f"{path} has schema version {version!s:.60}; this release reads "
            f"{' and '.join(map(str, schema.SCHEMAS))}. Open it with the release that wrote it."
        )
    check_layout(file, path)
    if not isinstance(file.attrs.get("complete"), np.bool_ | bool):
        raise StoreError(f"{path} is damaged: it does not say whether it is complete.")


def column_names(table: h5py.Group) -> list[str]:
    """Names of the numeric columns that a table has; those that it lacks and that are NaN, too."""
    own = schema.TABLES[table.name.strip("/")]
    added = schema.ADDED_COLUMNS & own.keys()
    return [name for name in (*own, *_FEATURE_PLACES) if name in added or _place(name) in table]


def read_column(table: h5py.Group, name: str) -> np.ndarray:
    """A whole column [N, ...].

    Raises:
        StoreError: there is none of that name.
    """
    data = _columns(table, [name])
    return read_values(data[name]) if data else np.full(_n_rows(table), np.nan, np.float32)


def read_values(data: h5py.Dataset, chosen: Any = slice(None)) -> np.ndarray:
    """Values of a data set, held against their checksums.

    Raises:
        StoreError: they are damaged; names the data set.
    """
    with _sound(data):
        return np.asarray(data[chosen])


@contextmanager
def _sound(data: h5py.Dataset) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{data.file.filename} is damaged: what `{data.name.strip('/')}` holds cannot be read "
            f"or is not what was written ({error!s:.200}). Restore the file, or value the pool "
            "again."
        ) from error


def read_blocks(
    table: h5py.Group, names: Sequence[str], block_rows: int
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Stretches of at most ``block_rows`` entries in order, each with its columns [b, ...].

    The arrays are views of memory that the next block overwrites.

    Raises:
        StoreError: there is no column of one of the names.
    """
    data = _columns(table, names)
    n_rows = _n_rows(table)
    room = {
        name: np.empty((min(block_rows, n_rows), *dataset.shape[1:]), dataset.dtype)
        for name, dataset in data.items()
    }
    for name in set(names) - set(data):
        room[name] = np.full(min(block_rows, n_rows), np.nan, np.float32)
    for start in range(0, n_rows, block_rows):
        stop = min(start + block_rows, n_rows)
        for name, dataset in data.items():
            with _sound(dataset):
                dataset.read_direct(room[name], np.s_[start:stop], np.s_[: stop - start])
        yield slice(start, stop), {name: values[: stop - start] for name, values in room.items()}


def _columns(table: h5py.Group, names: Sequence[str]) -> dict[str, h5py.Dataset]:
    known = column_names(table)
    if missing := sorted(set(names) - set(known)):
        raise StoreError(
            f"the {table.name.strip('/')} of {table.file.filename} have no column "
            f"{', '.join(missing)}; they have {', '.join(known)}."
        )
    return {name: table[_place(name)] for name in names if _place(name) in table}


def _n_rows(table: h5py.Group) -> int:
    return len(table["tower_version"])


def _place(name: str) -> str:
    return _FEATURE_PLACES.get(name, name)


def _is_scalar(value: Any, expected: Any) -> bool:
    return np.ndim(value) == 0 and bool(value == expected)
