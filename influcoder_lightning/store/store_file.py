"""Reads ``influence.h5`` lazily; everything a ranking needs comes through here."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from influcoder_lightning.errors import StoreError
from influcoder_lightning.printable import printable
from influcoder_lightning.store import schema
from influcoder_lightning.store.codes import unit_codes
from influcoder_lightning.store.columns import (
    WIDE,
    check_store,
    column_names,
    opened_store,
    read_blocks,
    read_column,
    read_values,
)
from influcoder_lightning.store.text import read_text

if TYPE_CHECKING:
    import pandas as pd


class StoreFile:
    """What ``influence.h5`` holds: rows, queries, windows, layers.

    Args:
        path: the store folder, the run folder around it, or ``influence.h5`` itself.

    Raises:
        StoreError: nothing there, no HDF5 file, truncated, or of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = schema.store_file(path)
        self.folder = self.path.parent
        if not self.path.is_file():
            raise StoreError(f"no store at {self.path}: pass the folder given as `dirpath`.")
        with opened_store(self.path) as file:
            check_store(file, self.path)
            self.attributes = {k: _decode(v) for k, v in file.attrs.items()}
        if self.attributes["schema_version"] < schema.SCHEMA_VERSION:
            warnings.warn(
                f"{self.path} was written by an earlier release: it has no checksums, so that "
                "damage to it may go unnoticed, and no weights of its rows (NaN).",
                stacklevel=2,
            )
        if not self.attributes["complete"]:
            warnings.warn(
                f"{self.path} is incomplete: {printable(self.attributes['note'])}. It holds "
                f"{self.n_rows} rows.",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.path)!r}, rows={self.n_rows}, "
            f"queries={len(self.query_ids)}, windows={len(self.windows)})"
        )

    @cached_property
    def n_rows(self) -> int:
        """Number of rows (one per sample and captured step)."""
        with opened_store(self.path) as file:
            return int(file["rows/step"].shape[0])

    @cached_property
    def sample_ids(self) -> np.ndarray:
        """[N] id of each row, int64 or str objects, in store order."""
        return self._ids("rows")

    @cached_property
    def query_ids(self) -> np.ndarray:
        """[M] id of each query, in the order of the queries."""
        first = self._queries.drop_duplicates("query").sort_values("query")
        return first["sample_id"].to_numpy()

    @cached_property
    def windows(self) -> pd.DataFrame:
        """One row per window: window, epoch, start_step, end_step, tower_version, drift, n_rows.

        Where layers were frozen while the run went on, also ``frozen_layers``: names of those that
        took no part in the window, and are zero in its rows and queries.
        """
        with opened_store(self.path) as file:
            columns = {name: file["windows"][name][:] for name in schema.WINDOW_COLUMNS}
        table, frozen = _frame(columns), self.attributes.get("frozen_layers")
        if frozen:
            table["frozen_layers"] = [tuple(frozen.get(str(w), ())) for w in table["window"]]
        return table

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Order and shape of the captured layers in the flattened gradient."""
        with opened_store(self.path) as file:
            group = file["layers"]
            columns = {name: group[name][:] for name in schema.LAYER_COLUMNS}
            return _frame({"name": read_text(group["name"]), **columns})

    def records(self) -> pd.DataFrame:
        """Every row's columns: sample_id, window, epoch, step, n_tokens, loss [nats per response
        token], learning_rate, tower_version, weight (of the sample's loss in the training loss of
        its step), n_prompt_tokens (both NaN in stores of the first release), grad_norm (of the
        sample's own mean loss), code_length (how much of the unit sketch the code space holds;
        stores of the first release lack it); with `optimizer_features` also update_norm and
        update_length, of the updates."""
        return self._table("rows")

    def column_names(self) -> list[str]:
        """Names that `column` and `blocks` know: those of `records` but the ids; code, sketch,
        update_code and update_sketch."""
        with opened_store(self.path) as file:
            return column_names(file["rows"])

    def column(self, name: str) -> np.ndarray:
        """[N] one column of `records`, or [N, ...] of the codes or sketches; nothing else is read.

        Codes come as they are stored: float16 of length 1, or with `code_dtype="int8"` int8 of any.

        Raises:
            StoreError: the store has no such column.
        """
        with opened_store(self.path) as file:
            return read_column(file["rows"], name)

    def blocks(
        self, names: Sequence[str], block_rows: int
    ) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Stretches of rows in store order, each with its columns [b, ...] by name.

        Memory does not grow with the store: the arrays are views that the next block overwrites.

        Args:
            names: as for `column`.
            block_rows: rows at a time, at most; from 1.

        Raises:
            StoreError: the store has no such column.
        """
        with opened_store(self.path) as file:
            yield from read_blocks(file["rows"], names, block_rows)

    def codes(self, rows: slice | None = None, feature: str = schema.GRADIENT) -> np.ndarray:
        """[n, d] float16 L2-normalised codes of all rows, or of a slice of them.

        Args:
            rows: which of them.
            feature: ``"gradient"``, or ``"update"`` for the optimizer's updates.

        Raises:
            StoreError: the run captured no such feature.
        """
        return self._feature("rows", "code", rows, feature)

    def sketches(self, rows: slice | None = None, feature: str = schema.GRADIENT) -> np.ndarray:
        """[n, D] float32 sketches in each sample's own loss unit (not normalised), as `codes`.

        Raises:
            StoreError: they were not kept, or the run captured no such feature.
        """
        return self._feature("rows", "sketch", rows, feature)

    def query_codes(self, window: int | None = None, end: bool = False) -> np.ndarray:
        """[M, d] float16 query codes.

        Args:
            window: those taken at the start of this window; None: of the last window.
            end: instead, those taken at the end of fit (in the last window's code space).
        """
        return self._of_queries("code", self._take(window, end))

    def query_sketches(self, window: int | None = None, end: bool = False) -> np.ndarray:
        """[M, D] float32, as `query_codes`.

        Raises:
            StoreError: sketches were not kept.
        """
        return self._of_queries("sketch", self._take(window, end))

    def query_records(self, window: int | None = None, end: bool = False) -> pd.DataFrame:
        """[M] columns of one take: sample_id, query, window, n_tokens, loss, grad_norm, ..."""
        return self._queries.iloc[self._take(window, end)].reset_index(drop=True)

    def query_texts(self) -> list[dict[str, str]] | None:
        """``{"prompt", "response"}`` of each query, or None where the run had no text."""
        with opened_store(self.path) as file:
            texts = [json.loads(text) for text in read_text(file["query_text"])]
        return texts if len(texts) == len(self.query_ids) and texts else None

    @cached_property
    def _queries(self) -> pd.DataFrame:
        table = self._table("queries")
        if table.duplicated(["query", "window", "at_end"]).any():
            raise StoreError(f"{self.path} is damaged: a query occurs twice in one take.")
        return table

    def _take(self, window: int | None, end: bool) -> np.ndarray:
        table = self._queries
        if len(table) == 0:
            raise StoreError(
                f"{self.path} holds no queries: pass `query_dataloader=` to the callback, or call "
                "`store.add_queries(model, dataloader)`."
            )
        if window is None:
            window = int(table["window"].max())
        chosen = (table["window"] == window) & (table["at_end"] == int(end))
        rows = table[chosen].sort_values("query").index.to_numpy()
        if len(rows) == 0 and end:  # nothing moved since the start: a frozen model
            return self._take(window, end=False)
        if len(rows) == 0:
            raise StoreError(
                f"{self.path} has no query features of window {window}; its windows are "
                f"{sorted(table['window'].unique().tolist())}."
            )
        return rows

    def _table(self, name: str) -> pd.DataFrame:
        with opened_store(self.path) as file:
            table = file[name]
            names = [n for n in column_names(table) if n not in WIDE]
            values = {n: read_column(table, n) for n in names}
        return _frame({"sample_id": self._ids(name)} | values)

    def _ids(self, table: str) -> np.ndarray:
        with opened_store(self.path) as file:
            group = file[table]
            if "sample_id" not in group:
                return np.empty(0, dtype=np.int64)
            return schema.decode_ids(group["sample_id"])

    def _of_queries(self, kind: str, chosen: np.ndarray) -> np.ndarray:
        # A take lies together: reading all takes for each window would take their square.
        first, last = int(chosen.min()), int(chosen.max())
        return self._feature("queries", kind, slice(first, last + 1))[chosen - first]

    def _feature(
        self, table: str, kind: str, rows: slice | None, feature: str = schema.GRADIENT
    ) -> np.ndarray:
        with opened_store(self.path) as file:
            group = file[table].get(f"features/{feature}")
            if group is None:
                known = ", ".join(file[f"{table}/features"])
                raise StoreError(
                    f"{self.path} has no feature {feature!r}; it has {known}. Optimizer updates "
                    "are captured with `optimizer_features=True`."
                )
            if kind not in group:
                raise StoreError(
                    f"{self.path} keeps no sketches: run again with `keep_sketches=True`."
                )
            values = read_values(group[kind], slice(None) if rows is None else rows)
            return unit_codes(values) if kind == "code" else values


def read_attributes(path: Path) -> dict[str, Any]:
    """The root attributes of a store file; errors as of `StoreFile`."""
    return StoreFile(path).attributes


def _frame(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    import pandas as pd  # slow to import, and a training run needs none

    return pd.DataFrame(columns)


def _decode(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogatepass")
    if isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value
