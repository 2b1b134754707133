"""Reads ``influence.h5`` lazily; everything a ranking needs comes through here."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from influcoder_lightning.errors import InfluCoderError, StoreError
from influcoder_lightning.store import schema
from influcoder_lightning.store.folder import run_file
from influcoder_lightning.store.layout import check_layout

if TYPE_CHECKING:
    from influcoder_lightning.encoder.gradient_tower import GradientTower
    from influcoder_lightning.encoder.text_tower import TextTower
    from influcoder_lightning.influence.ranking import Ranking


class InfluenceStore:
    """A finished valuation: rows, queries, windows, towers.

    Args:
        path: the store folder, the run folder around it, or ``influence.h5`` itself.

    Raises:
        StoreError: nothing there, no HDF5 file, truncated, or of another schema.

    Example::

        store = InfluenceStore("run/influence")
        store.rank("cosine").top_k(100)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = schema.store_file(path)
        self.folder = self.path.parent
        if not self.path.is_file():
            self._recover()
        with self._open() as file:
            self._validate(file)
            self.attributes = {k: _decode(v) for k, v in file.attrs.items()}
        if not self.attributes["complete"]:
            warnings.warn(
                f"{self.path} is incomplete: {self.attributes['note']}. It holds "
                f"{self.n_rows} rows.",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return (
            f"InfluenceStore({str(self.path)!r}, rows={self.n_rows}, "
            f"queries={len(self.query_ids)}, windows={len(self.windows)})"
        )

    @cached_property
    def n_rows(self) -> int:
        """Number of rows (one per sample and captured step)."""
        with self._open() as file:
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
        """One row per window: window, epoch, start_step, end_step, tower_version, drift, n_rows."""
        with self._open() as file:
            columns = {name: file["windows"][name][:] for name in schema.WINDOW_COLUMNS}
        return pd.DataFrame(columns)

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Order and shape of the captured layers in the flattened gradient."""
        with self._open() as file:
            group = file["layers"]
            columns = {name: group[name][:] for name in ("out_features", "in_features", "offset")}
            return pd.DataFrame({"name": group["name"].asstr()[:], **columns})

    def records(self) -> pd.DataFrame:
        """Every row's columns: sample_id, window, epoch, step, n_tokens, loss [nats per response
        token], learning_rate, tower_version, grad_norm (of the sample's own mean loss), code_length
        (how much of the unit sketch the code space holds; stores of the first release lack it)."""
        return self._table("rows", schema.ROW_COLUMNS)

    def codes(self, rows: slice | None = None) -> np.ndarray:
        """[n, d] float16 L2-normalised codes of all rows, or of a slice of them."""
        return self._feature("rows", "code", rows)

    def sketches(self, rows: slice | None = None) -> np.ndarray:
        """[n, D] float32 sketches in each sample's own loss unit (not normalised).

        Raises:
            StoreError: they were not kept.
        """
        return self._feature("rows", "sketch", rows)

    def query_codes(self, window: int | None = None, end: bool = False) -> np.ndarray:
        """[M, d] float16 query codes.

        Args:
            window: those taken at the start of this window; None: of the last window.
            end: instead, those taken at the end of fit (in the last window's code space).
        """
        return self._feature("queries", "code", None)[self._take(window, end)]

    def query_sketches(self, window: int | None = None, end: bool = False) -> np.ndarray:
        """[M, D] float32, as `query_codes`.

        Raises:
            StoreError: sketches were not kept.
        """
        return self._feature("queries", "sketch", None)[self._take(window, end)]

    def query_records(self, window: int | None = None, end: bool = False) -> pd.DataFrame:
        """[M] columns of one take: sample_id, query, window, n_tokens, loss, grad_norm, ..."""
        return self._queries.iloc[self._take(window, end)].reset_index(drop=True)

    def query_texts(self) -> list[dict[str, str]] | None:
        """``{"prompt", "response"}`` of each query, or None where the run had no text."""
        with self._open() as file:
            texts = [json.loads(text) for text in file["query_text"].asstr()[:]]
        return texts if len(texts) == len(self.query_ids) and texts else None

    def gradient_tower(self, version: int) -> GradientTower:
        """The tower whose last version is ``version``.

        Raises:
            StoreError: co-training made no such version, or its file is damaged.
        """
        from influcoder_lightning.encoder.gradient_tower import load_version

        return load_version(self.folder / "encoder" / "gradient", version)

    def text_tower(self) -> TextTower:
        """The co-trained text tower.

        Raises:
            StoreError: the run trained none.
        """
        from influcoder_lightning.encoder.text_tower import TextTower

        folder = self.folder / "encoder"
        if not (folder / "text_head").is_dir():
            raise StoreError(
                f"{self.folder} has no text tower. It is co-trained when `co_train=True` and the "
                "callback can see text: pass `tokenizer=`, or batches with `prompt` and `response`."
            )
        return TextTower.load(folder)

    def rank(
        self,
        method: str = "cosine",
        queries: Sequence[Any] | None = None,
        data: Sequence[dict[str, Any]] | None = None,
        model: Any = None,
        **options: Any,
    ) -> Ranking:
        """Rank the samples; see `influcoder_lightning.influence.rank`."""
        from influcoder_lightning.influence.registry import rank

        return rank(self, method, queries, data, model, **options)

    def add_queries(self, model: Any, dataloader: Any, **options: Any) -> list[int | str]:
        """Value new queries against every window without retraining.

        See `influcoder_lightning.extract.add_queries`, which this calls.
        """
        from influcoder_lightning.extract import add_queries

        ids = add_queries(self, model, dataloader, **options)
        for name in ("query_ids", "_queries"):
            self.__dict__.pop(name, None)
        return ids

    def _recover(self) -> None:
        """Merge the segments of a run that was killed; any other missing store is an error."""
        if self.path.name != schema.FILE_NAME or not run_file(self.folder).is_file():
            raise StoreError(f"no store at {self.path}: pass the folder given as `dirpath`.")
        from influcoder_lightning.recovery import recover

        recover(self.folder)

    @cached_property
    def _queries(self) -> pd.DataFrame:
        table = self._table("queries", schema.QUERY_COLUMNS)
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

    def _table(self, name: str, columns: dict[str, str]) -> pd.DataFrame:
        with self._open() as file:
            group = file[name]
            values = {column: group[column][:] for column in columns}
            feature = group[f"features/{schema.GRADIENT}"]
            values["grad_norm"] = feature["norm"][:]
            if "length" in feature:
                values["code_length"] = feature["length"][:]
        return pd.DataFrame({"sample_id": self._ids(name), **values})

    def _ids(self, table: str) -> np.ndarray:
        with self._open() as file:
            group = file[table]
            if "sample_id" not in group:
                return np.empty(0, dtype=np.int64)
            return schema.decode_ids(group["sample_id"])

    def _feature(self, table: str, kind: str, rows: slice | None) -> np.ndarray:
        with self._open() as file:
            group = file[f"{table}/features/{schema.GRADIENT}"]
            if kind not in group:
                raise StoreError(
                    f"{self.path} keeps no sketches: run again with `keep_sketches=True`."
                )
            return np.asarray(group[kind][rows if rows is not None else slice(None)])

    def _validate(self, file: h5py.File) -> None:
        if not _is_scalar(file.attrs.get("format"), schema.FORMAT):
            raise StoreError(f"{self.path} is an HDF5 file, but no influence store.")
        version = file.attrs.get("schema_version")
        if not _is_scalar(version, schema.SCHEMA_VERSION):
            raise StoreError(
                f"{self.path} has schema version {version!s:.60}; this release reads "
                f"{schema.SCHEMA_VERSION}. Open it with the release that wrote it."
            )
        check_layout(file, self.path)
        if not isinstance(file.attrs.get("complete"), np.bool_ | bool):
            raise StoreError(f"{self.path} is damaged: it does not say whether it is complete.")

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        try:
            file = h5py.File(self.path, "r")
        except BlockingIOError as error:
            raise StoreError(
                f"{self.path} is being written by another process; read it when the run is over."
            ) from error
        except OSError as error:
            raise StoreError(
                f"{self.path} is no readable HDF5 file (truncated, damaged, or something else): "
                f"{error}"
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
                    f"{self.path} is damaged: {reason:.300}. Restore the file, or value the pool "
                    "again."
                ) from error


def read_attributes(path: Path) -> dict[str, Any]:
    """The root attributes of a store file.

    Raises:
        StoreError: as for `InfluenceStore`.
    """
    return InfluenceStore(path).attributes


def _is_scalar(value: Any, expected: Any) -> bool:
    return np.ndim(value) == 0 and bool(value == expected)


def _decode(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value
