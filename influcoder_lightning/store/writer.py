"""Writes ``influence.h5``; knows the layout, knows nothing of training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from influcoder_lightning.files import copy_blocks, durable_path, write_new
from influcoder_lightning.store import schema, text
from influcoder_lightning.store.codes import CODE_DTYPES, quantized
from influcoder_lightning.store.failing_disk import Output
from influcoder_lightning.store.folder import exclusive
from influcoder_lightning.store.segments import FeatureBlock


class StoreWriter:
    """An open store file. Use `create` for a fresh one, `extended` to add to one that is there.

    As a context manager it lets go of the file where the block fails before `close`.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._output = Output(path)
        try:
            self.file = h5py.File(self._output, mode, libver=schema.HDF5_VERSIONS)
        except BaseException:
            self._output.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._let_go()
        if error is None or isinstance(error, Exception):
            self._output.check()  # what HDF5 makes of a disk that has failed came second

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        code_dim: int,
        code_dtype: str = "float16",
        sketch_dim: int,
        keep_sketches: bool,
        layers: Sequence[Sequence[str | int]],
        attributes: Mapping[str, Any],
        updates: bool = False,
    ) -> StoreWriter:
        """A fresh file at ``path``; with ``updates`` rows have them too.

        Raises:
            OSError: the disk does not take it.
        """
        writer = cls(Path(path), "w")
        try:
            writer._lay_out(
                code_dim,
                code_dtype,
                sketch_dim if keep_sketches else None,
                layers,
                attributes,
                updates,
            )
        except BaseException:
            writer._let_go()
            raise
        return writer

    def _lay_out(
        self,
        code_dim: int,
        code_dtype: str,
        sketch_dim: int | None,
        layers: Sequence[Sequence[str | int]],
        attributes: Mapping[str, Any],
        updates: bool,
    ) -> None:
        file = self.file
        file.attrs.update(complete=False, schema_version=schema.SCHEMA_VERSION)
        texts = {"format": schema.FORMAT, "note": "the run has not finished"}
        for name, value in (texts | dict(attributes)).items():
            self.set_attribute(name, value)
        for table, columns in schema.TABLES.items():
            group = schema.create_table(file, table, columns)
            for name in schema.FEATURES if updates and table == "rows" else [schema.GRADIENT]:
                feature = group.create_group(f"features/{name}")
                kind = CODE_DTYPES[code_dtype] if table == "rows" else "f2"  # queries are few
                schema.create_column(feature, "code", kind, (code_dim,))
                schema.create_column(feature, "norm", "f4")
                schema.create_column(feature, "length", "f4")
                if sketch_dim is not None:
                    schema.create_column(feature, "sketch", "f4", (sketch_dim,))
        schema.create_table(file, "windows", schema.WINDOW_COLUMNS)
        schema.create_text_column(file, "query_text")
        group = schema.create_table(file, "layers", schema.LAYER_COLUMNS)
        schema.append(schema.create_text_column(group, "name"), [x[0] for x in layers])
        for column, name in enumerate(schema.LAYER_COLUMNS, start=1):
            schema.append(group[name], [x[column] for x in layers])

    @classmethod
    @contextmanager
    def extended(cls, path: Path) -> Iterator[StoreWriter]:
        """A copy of the store at ``path`` to append to; takes its place when the block ends well.

        So a crash while queries are added leaves the store as it was.

        Raises:
            OSError: the disk does not take it.
            StoreError: another process writes to the folder.
        """
        with exclusive(path.parent), durable_path(path) as part:
            write_new(part, copy_blocks(path))
            with cls(part, "r+") as writer:
                yield writer
                writer._finish()

    def append(
        self,
        table: str,
        ids: Sequence[int | str],
        columns: Mapping[str, Any],
        feature: FeatureBlock,
        update: FeatureBlock | None = None,
    ) -> None:
        """Append entries to ``"rows"`` or ``"queries"``, see `SegmentWriter.append`.

        Raises:
            DataError: ids mix integers and text.
            OSError: the disk does not take it.
        """
        with self._output.checked():
            self._append(table, ids, columns, feature, update)

    def _append(
        self,
        table: str,
        ids: Sequence[int | str],
        columns: Mapping[str, Any],
        feature: FeatureBlock,
        update: FeatureBlock | None,
    ) -> None:
        group = self.file[table]
        self._append_ids(group, ids)
        for name, value in schema.completed(table, columns).items():
            schema.append(group[name], np.broadcast_to(np.asarray(value), (len(ids),)))
        for feature_name, block in ((schema.GRADIENT, feature), (schema.UPDATE, update)):
            if block is None:
                continue
            target = group[f"features/{feature_name}"]
            for name, value in block.parts().items():
                if name in target:  # stores of the first release have no length; some no sketch
                    whole = target[name].dtype.kind == "i" and value.dtype.kind == "f"
                    schema.append(target[name], quantized(value) if whole else value)

    def _append_ids(self, group: h5py.Group, ids: Sequence[int | str]) -> None:
        if "sample_id" not in group:
            if isinstance(ids[0], str):
                schema.create_text_column(group, "sample_id")
            else:
                schema.create_column(group, "sample_id", "i8")
        schema.refuse_mixed(ids, text.is_text(group["sample_id"]))
        schema.append(group["sample_id"], ids)

    def append_window(self, **values: Any) -> None:
        """Append one entry to the table of windows."""
        for name in schema.WINDOW_COLUMNS:
            schema.append(self.file["windows"][name], [values[name]])

    def append_query_texts(self, texts: Sequence[Mapping[str, str]]) -> None:
        """Append the queries' texts, in the order of their positions."""
        self.append_encoded_texts([json.dumps(dict(text)) for text in texts])

    def append_encoded_texts(self, texts: Sequence[str]) -> None:
        """The same for texts that are JSON already."""
        schema.append(self.file["query_text"], texts)

    def set_attribute(self, name: str, value: Any) -> None:
        """Set a root attribute (JSON for anything but text).

        Of fixed length: text of variable length would lie where no checksum covers it.
        """
        words = value if isinstance(value, str) else json.dumps(value)
        self.file.attrs[name] = np.bytes_(words.encode("utf-8", "surrogatepass"))

    def close(self, complete: bool, note: str = "") -> None:
        """Mark the store complete or not, with a note saying why not, and close it.

        Raises:
            OSError: the disk does not take it.
        """
        with self._output.checked():
            self.file.attrs["complete"] = complete
            self.set_attribute("note", note)
        self._finish()

    def _finish(self) -> None:
        with self._output.checked():
            self.file.close()
        self._output.close()

    def _let_go(self) -> None:
        with suppress(Exception):  # of a disk that has failed; what is raised says so
            self.file.close()
        self._output.close()
