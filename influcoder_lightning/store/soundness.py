"""Whether an HDF5 file has the layout of a store, before any of its values is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from influcoder_lightning.errors import StoreError
from influcoder_lightning.store import schema, text

_CHECKSUM = h5py.h5z.FILTER_FLETCHER32


def check_layout(file: h5py.File, path: Path) -> None:
    """Refuse a file whose datasets are missing, of another shape or kind, or not in the file.

    Raises:
        StoreError: names the dataset.
    """
    tables = (("rows", schema.ROW_COLUMNS), ("queries", schema.QUERY_COLUMNS))
    widths: dict[str, set[int]] = {"code": set(), "sketch": set()}
    for table, columns in tables:
        found: dict[str, text.Column] = {
            name: _numbers(file, f"{table}/{name}", path)
            for name in columns
            if name not in schema.ADDED_COLUMNS or f"{table}/{name}" in file
        }
        for feature in schema.FEATURES:
            if feature == schema.GRADIENT or f"{table}/features/{feature}" in file:
                parts = _feature(file, table, feature, path)
                found |= {f"{feature} {name}": data for name, data in parts.items()}
                for name in widths:
                    if name in parts and len(parts[name]):
                        widths[name].add(parts[name].shape[1])
        if text.n_entries(found["window"]) or f"{table}/sample_id" in file:
            found["sample_id"] = ids = stored_column(file, f"{table}/sample_id", path)
            if isinstance(ids, h5py.Dataset) and ids.dtype.kind != "i":
                _text(ids, path)
        _same_length(found, table, path)
    for name, several in widths.items():
        if len(several) > 1 or 0 in several:
            raise _damaged(path, f"its {name}s have the widths {sorted(several)}")
    windows = {n: _numbers(file, f"windows/{n}", path) for n in schema.WINDOW_COLUMNS}
    _same_length(windows, "windows", path)
    layers = {n: _numbers(file, f"layers/{n}", path) for n in schema.LAYER_COLUMNS}
    names = _text(stored_column(file, "layers/name", path), path)
    _same_length({**layers, "name": names}, "layers", path)
    _text(stored_column(file, "query_text", path), path)


def _feature(file: h5py.File, table: str, feature: str, path: Path) -> dict[str, h5py.Dataset]:
    parts = {}
    for name, n_dimensions in (("norm", 1), ("code", 2), ("length", 1), ("sketch", 2)):
        place = f"{table}/{schema.feature(name, feature)}"
        if name in ("norm", "code") or place in file:
            kinds = {"norm": "iuf", "code": "fi" if table == "rows" else "f"}.get(name, "f")
            parts[name] = _numbers(file, place, path, kinds, n_dimensions)
    return parts


def _numbers(
    file: h5py.File, name: str, path: Path, kinds: str = "iuf", n_dimensions: int = 1
) -> h5py.Dataset:
    data = stored_dataset(file, name, path, n_dimensions)
    if data.dtype.kind not in kinds:
        raise _damaged(path, f"`{name}` holds {data.dtype}")
    return data


def _text(data: text.Column, path: Path) -> text.Column:
    if not text.is_text(data):
        raise _damaged(path, f"`{data.name}` holds {data.dtype}, not text")
    return data


def stored_column(file: h5py.File, name: str, path: Path) -> text.Column:
    """A column of numbers or text, whose values are in this file, see `stored_dataset`.

    Raises:
        StoreError: they are not.
    """
    at = _inside(file, name, path)
    if not isinstance(at, h5py.Group):
        return stored_dataset(file, name, path)
    for part, dtype in text.PARTS.items():
        if stored_dataset(file, f"{name}/{part}", path).dtype != dtype:
            raise _damaged(path, f"`{name}/{part}` holds {at[part].dtype}")
    return at


def stored_dataset(file: h5py.File, name: str, path: Path, n_dimensions: int = 1) -> h5py.Dataset:
    """A dataset whose values are in this file, as many of them as it declares.

    Raises:
        StoreError: it is not.
    """
    at = _inside(file, name, path)
    if not isinstance(at, h5py.Dataset) or at.ndim != n_dimensions:
        raise _damaged(path, f"`{name}` is no dataset of {n_dimensions} dimensions")
    plan = at.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if at.is_virtual or plan.get_external_count() or filters not in ([], [_CHECKSUM]):
        raise _damaged(path, f"`{name}` is compressed, or has its values in another file")
    if at.nbytes > at.id.get_storage_size():
        raise _damaged(
            path, f"`{name}` declares {at.nbytes:,} bytes and has {at.id.get_storage_size():,}"
        )
    chunk = int(np.prod(at.chunks or (0,))) * at.dtype.itemsize
    if at.size and chunk > at.id.get_storage_size():  # it is read, and checked, as a whole
        raise _damaged(path, f"`{name}` declares chunks of {chunk:,} bytes")
    return at


def _inside(file: h5py.File, name: str, path: Path) -> Any:
    at: Any = file
    for part in name.split("/"):
        try:
            kind = at.id.links.get_info(part.encode()).type
        except (AttributeError, KeyError, RuntimeError) as error:  # of a data set, or no such name
            if isinstance(error, RuntimeError) and "name doesn't exist" not in str(error):
                raise  # the file could not be read: it may well have it
            raise _damaged(path, f"it lacks `{name}`") from None
        # A link could lead into any file that the reader may open.
        if kind != h5py.h5l.TYPE_HARD:
            raise _damaged(path, f"`{name}` is a link")
        at = at[part]
    return at


def _same_length(found: Mapping[str, text.Column], table: str, path: Path) -> None:
    lengths = {name: text.n_entries(data) for name, data in found.items()}
    if len(set(lengths.values())) > 1:
        raise _damaged(path, f"the columns of `{table}` differ in length: {lengths}")


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path} is damaged: {reason}. Restore the file, or value the pool again.")
