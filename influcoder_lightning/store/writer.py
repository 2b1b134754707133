"""Writes ``influence.h5``; knows the layout, knows nothing of training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from influcoder_lightning.errors import StoreError
from influcoder_lightning.store import schema


@dataclass
class FeatureBlock:
    """One named feature of n rows: code [n, d], norm [n], length [n], and sketch [n, D] or None."""

    code: np.ndarray
    norm: np.ndarray
    length: np.ndarray
    sketch: np.ndarray | None = None


class StoreWriter:
    """An open store. Use `create` for a fresh one and `reopen` to append queries later."""

    def __init__(self, file: h5py.File, folder: Path) -> None:
        self.file, self.folder = file, folder

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        code_dim: int,
        sketch_dim: int,
        keep_sketches: bool,
        layers: Sequence[tuple[str, int, int, int]],
        attributes: Mapping[str, Any],
        overwrite: bool = False,
    ) -> StoreWriter:
        """A fresh store in ``folder``.

        Raises:
            StoreError: the folder already holds a store and ``overwrite`` is False.
        """
        folder = Path(folder)
        refuse_existing(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:  # only what this package writes
            (folder / schema.FILE_NAME).unlink(missing_ok=True)
            for name in ("encoder", "adapters"):
                shutil.rmtree(folder / name, ignore_errors=True)
        # Never mode "w": it truncates a file that another process has open.
        file = h5py.File(folder / schema.FILE_NAME, "x")
        file.attrs.update(format=schema.FORMAT, schema_version=schema.SCHEMA_VERSION)
        file.attrs.update(complete=False, note="the run has not finished")
        for name, value in attributes.items():
            file.attrs[name] = value if isinstance(value, str) else json.dumps(value)
        for table, columns in (("rows", schema.ROW_COLUMNS), ("queries", schema.QUERY_COLUMNS)):
            group = schema.create_table(file, table, columns)
            feature = group.create_group(f"features/{schema.GRADIENT}")
            schema.create_column(feature, "code", "f2", (code_dim,))
            schema.create_column(feature, "norm", "f4")
            schema.create_column(feature, "length", "f4")
            if keep_sketches:
                schema.create_column(feature, "sketch", "f4", (sketch_dim,))
        schema.create_table(file, "windows", schema.WINDOW_COLUMNS)
        schema.create_column(file, "query_text", h5py.string_dtype())
        group = file.create_group("layers")
        group.create_dataset("name", data=[x[0] for x in layers], dtype=h5py.string_dtype())
        for column, name in enumerate(("out_features", "in_features", "offset"), start=1):
            group.create_dataset(name, data=[x[column] for x in layers], dtype="i8")
        return cls(file, folder)

    @property
    def is_open(self) -> bool:
        """Whether there is still a file to write to."""
        return bool(self.file)

    @classmethod
    def reopen(cls, path: Path) -> StoreWriter:
        """An existing store, to append to."""
        return cls(h5py.File(path, "a"), path.parent)

    def append(
        self,
        table: str,
        ids: Sequence[int | str],
        columns: Mapping[str, Any],
        feature: FeatureBlock,
    ) -> None:
        """Append entries to ``"rows"`` or ``"queries"``."""
        group = self.file[table]
        if "sample_id" not in group:
            schema.create_column(group, "sample_id", schema.id_dtype(ids))
        values = {"sample_id": schema.encode_ids(ids, group["sample_id"].dtype), **columns}
        for name, value in values.items():
            schema.append(group[name], np.broadcast_to(np.asarray(value), (len(ids),)))
        target = group[f"features/{schema.GRADIENT}"]
        schema.append(target["code"], feature.code)
        schema.append(target["norm"], feature.norm)
        if "length" in target:  # stores of the first release have none
            schema.append(target["length"], feature.length)
        if "sketch" in target:
            assert feature.sketch is not None
            schema.append(target["sketch"], feature.sketch)

    def append_window(self, **values: Any) -> None:
        """Append one entry to the table of windows."""
        for name in schema.WINDOW_COLUMNS:
            schema.append(self.file["windows"][name], [values[name]])

    def append_query_texts(self, texts: Sequence[Mapping[str, str]]) -> None:
        """Append the queries' texts, in the order of their positions."""
        schema.append(self.file["query_text"], [json.dumps(dict(text)) for text in texts])

    def set_attribute(self, name: str, value: Any) -> None:
        """Set a root attribute (JSON for anything but text)."""
        self.file.attrs[name] = value if isinstance(value, str) else json.dumps(value)

    def row_ids(self) -> np.ndarray:
        """The ids of all rows written so far."""
        rows = self.file["rows"]
        return schema.decode_ids(rows["sample_id"]) if "sample_id" in rows else np.empty(0, "i8")

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self.file.flush()

    def close(self, complete: bool, note: str = "") -> None:
        """Mark the store complete or not, with a note saying why not, and close it."""
        if self.file:
            self.file.attrs["complete"] = complete
            self.file.attrs["note"] = note
            self.file.close()


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Raise ``StoreError`` if ``folder`` holds a store that must not be replaced."""
    if (folder / schema.FILE_NAME).exists() and not overwrite:
        raise StoreError(
            f"{folder} already holds a store ({schema.FILE_NAME}). Choose another folder, or pass "
            "`overwrite=True` to replace it."
        )
