"""Sealed segments of all processes -> one ``influence.h5``, a segment in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from influcoder_lightning.errors import InfluCoderError, StoreError
from influcoder_lightning.files import disk_errors, durable_path
from influcoder_lightning.store import schema
from influcoder_lightning.store.description import Counts, Description, Window
from influcoder_lightning.store.flat import Part, flat_path, map_flat
from influcoder_lightning.store.folder import BASE, SEGMENTS, rank_folder
from influcoder_lightning.store.manifest import Manifest, Segment
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.soundness import stored_column, stored_dataset
from influcoder_lightning.store.text import read_text
from influcoder_lightning.store.writer import StoreWriter

Encode = Callable[[np.ndarray, np.ndarray, int], FeatureBlock]
"""(sketches [n, D], norms [n], tower version) -> what the store keeps of these rows."""
_BLOCK_ROWS, _ENCODED_ROWS = 4096, 256


def manifests(folder: Path, description: Description) -> list[Manifest]:
    """The manifests of all processes of the run that ``description`` is of."""
    return [
        Manifest(rank_folder(folder, rank), description["generation"])
        for rank in range(description["world_size"])
    ]


def read_windows(folder: Path, description: Description, first: Manifest) -> list[Window]:
    """What the first process's segments know of each window, the newest word of each, in order."""
    known: dict[int, Window] = {}
    if description["base_rows"] is not None:
        with opened(folder / SEGMENTS / BASE) as file:
            _learn_windows(known, file, description["base_windows"])
    for segment in first.segments:
        with opened(first.verified(segment)) as file:
            _learn_windows(known, file)
    return [known[index] for index in sorted(known)]


def merge(
    folder: Path,
    description: Description,
    parts: list[Manifest],
    windows: list[Window],
    encode: Encode,
    *,
    complete: bool,
    note: str = "",
    cost: Callable[[], Mapping[str, float] | None] | None = None,
) -> Counts:
    """Write ``influence.h5`` from everything that is sealed; returns its counts.

    They are ``seen`` and ``kept_out`` (by reason), in samples, and ``written``, in rows. ``cost``
    is asked last what the run has cost, so that merging can count; nobody knows it after a crash.

    Rows come process by process, each in the order of its training.

    Raises:
        StoreError: a segment is missing or damaged, or rows in the file and rows sealed differ.
    """
    versions = {window["window"]: window["tower_version"] for window in windows}
    target = folder / schema.FILE_NAME
    with (
        _store_errors(),
        durable_path(target) as part,
        StoreWriter.create(part, **description["store"]) as writer,
    ):
        merging = _Merging(writer, versions, encode, bool(description["store"].get("updates")))
        base = folder / SEGMENTS / BASE
        starts = np.cumsum([0, *(description.get("base_parts") or [])])
        for rank, manifest in enumerate(parts):
            if description["base_rows"] is not None:
                with merging.reading(base) as file:
                    if rank == 0:
                        merging.add_base_queries(file, description)
                    begin = int(starts[rank])
                    merging.add_base_rows(file, begin, begin + description["base_rows"][rank])
            for segment in manifest.segments:
                with merging.reading(manifest.verified(segment)) as file:
                    merging.add(file, flat_sketches(file, segment, description))
            merging.end_part()
        for window in windows:
            writer.append_window(**merging.counted(window))
        n_rows, expected = sum(merging.parts), _expected(parts, description)
        if n_rows != expected:
            raise StoreError(f"{target}: {n_rows} rows merged, but {expected} were sealed.")
        seen, kept_out = _totals(parts, description)
        counts: Counts = {"seen": seen, "kept_out": kept_out, "written": n_rows}
        writer.set_attribute("counts", counts)
        writer.set_attribute("parts", merging.parts)
        known = None if cost is None else cost()
        if known is not None:
            writer.set_attribute("cost", known)
        writer.close(complete, note)
    return counts


def _store_errors() -> AbstractContextManager[None]:
    """A disk that does not take the store: an error that says what is safe."""
    hint = "Every sealed row is safe in its segment: make room and open the store, which merges."
    return disk_errors(schema.FILE_NAME, hint)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A segment to read; what it holds may be anything.

    Raises:
        StoreError: it is not what a run has written.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InfluCoderError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is no segment of a store: {error!s:.300}.") from error


def flat_sketches(
    file: h5py.File, segment: Segment, description: Description
) -> dict[Part, np.ndarray]:
    """The sketches beside an open segment, by table and feature; none where it has no such file.

    Raises:
        StoreError: they are not as many as its entries.
    """
    path = Path(file.filename)
    if not segment.flat_crc32:
        return {}
    counted = {
        (table, name): len(stored_dataset(file, f"{table}/{schema.feature('norm', name)}", path))
        for table in schema.TABLES
        for name in schema.FEATURES
        if f"{table}/features/{name}" in file
    }
    return map_flat(flat_path(path), counted, description["store"]["sketch_dim"])


class _Merging:
    """What is being merged, and what has been counted of it."""

    def __init__(
        self, writer: StoreWriter, versions: Mapping[int, int], encode: Encode, updates: bool
    ) -> None:
        self._writer, self._versions, self._encode = writer, versions, encode
        self._updates = updates
        self.parts: list[int] = []
        self._per_window: Counter[int] = Counter()
        self._last_step: dict[int, int] = {}
        self._n_rows = 0
        self._waiting: dict[str, dict[str, np.ndarray] | None] = dict.fromkeys(schema.TABLES)
        self._path = Path()

    def counted(self, window: Window) -> Window:
        """The window with its number of rows, and an end if the run did not live to say it."""
        index, end = window["window"], window["end_step"]
        if end < 0:
            end = max(window["start_step"], self._last_step.get(index, -1) + 1)
        return {**window, "n_rows": self._per_window[index], "end_step": end}

    @contextmanager
    def reading(self, path: Path) -> Iterator[h5py.File]:
        self._path = path
        with opened(path) as file:
            yield file

    def end_part(self) -> None:
        for table in schema.TABLES:
            self._encode_waiting(table, 0)
        self.parts.append(self._n_rows)
        self._n_rows = 0

    def add(self, file: h5py.File, sketches: Mapping[Part, np.ndarray]) -> None:
        for table in schema.TABLES:
            if table in file:
                self._add_entries(file, table, slice(None), sketches)
        if "query_text" in file:
            texts = read_text(stored_column(file, "query_text", self._path))
            self._writer.append_encoded_texts(texts.tolist())

    def add_base_rows(self, file: h5py.File, start: int, stop: int) -> None:
        for begin in range(start, stop, _BLOCK_ROWS):
            self._add_entries(file, "rows", slice(begin, min(begin + _BLOCK_ROWS, stop)))

    def add_base_queries(self, file: h5py.File, description: Description) -> None:
        """The takes of the windows that stay, of the queries that the run itself has."""
        table = file["queries"]
        n_queries = description["base_queries"]
        keep = (table["window"][:] < description["base_windows"]) & (table["at_end"][:] == 0)
        keep &= table["query"][:] < n_queries
        if keep.any():
            self._add_entries(file, "queries", keep.nonzero()[0])
        texts = read_text(file["query_text"], slice(n_queries))
        self._writer.append_encoded_texts(texts.tolist())

    def _add_entries(
        self,
        file: h5py.File,
        table: str,
        chosen: Any,
        sketches: Mapping[Part, np.ndarray] | None = None,
    ) -> None:
        entries = {
            name: stored_dataset(file, f"{table}/{name}", self._path)[chosen]
            for name in schema.TABLES[table]
            if name not in schema.ADDED_COLUMNS or f"{table}/{name}" in file
        }
        missing = schema.completed(table, {}).keys() - entries.keys()
        entries |= {n: np.full(len(entries["window"]), np.nan, np.float32) for n in missing}
        ids = stored_column(file, f"{table}/sample_id", self._path)
        entries["sample_id"] = schema.decode_ids(ids, chosen)
        for name in self._features(table):
            for part in _parts(file[table], name):
                place = schema.feature(part, name)
                dimensions = 2 if part in ("code", "sketch") else 1
                data = stored_dataset(file, f"{table}/{place}", self._path, dimensions)
                entries[place] = data[chosen]
            if sketches is not None and (table, name) in sketches:
                entries[schema.feature("sketch", name)] = sketches[table, name]
        if table == "rows":
            windows = entries["window"].tolist()
            self._per_window.update(windows)
            self._last_step.update(zip(windows, entries["step"].tolist(), strict=True))
            self._n_rows += len(windows)
        kinds = [
            {part for part in ("code", "sketch") if schema.feature(part, name) in entries}
            for name in self._features(table)
        ]
        if all("code" in parts for parts in kinds):
            self._encode_waiting(table, 0)
            self._append(table, entries)
            return
        if not all(parts == {"sketch"} for parts in kinds):
            raise StoreError(
                f"{self._path} is no segment of this store: a feature of its {table} has no codes "
                "and no sketches."
            )
        waiting = self._waiting[table]
        self._waiting[table] = entries if waiting is None else _joined(waiting, entries)
        self._encode_waiting(table, _ENCODED_ROWS)

    def _encode_waiting(self, table: str, at_least: int) -> None:
        """Encode entries that waited, in blocks whose edges do not depend on the segments' edges.

        So a run that was interrupted gives the same codes, to the last bit.
        """
        while (entries := self._waiting[table]) is not None:
            versions = np.array([self._versions[w] for w in entries["window"].tolist()])
            edges = [*(np.flatnonzero(np.diff(versions)) + 1), len(versions)]
            size = min(edges[0], _ENCODED_ROWS)
            if len(versions) < max(at_least, 1):
                return
            some = {name: value[:size] for name, value in entries.items()}
            rest = {name: value[size:] for name, value in entries.items()}
            self._waiting[table] = rest if len(versions) > size else None
            for name in self._features(table):
                sketch, norm = (some.pop(schema.feature(part, name)) for part in ("sketch", "norm"))
                block = self._encode(sketch, norm, int(versions[0]))
                some |= {schema.feature(part, name): v for part, v in block.parts().items()}
            some["tower_version"] = versions[:size]
            self._append(table, some)

    def _features(self, table: str) -> list[str]:
        return list(schema.FEATURES) if self._updates and table == "rows" else [schema.GRADIENT]

    def _append(self, table: str, entries: dict[str, np.ndarray]) -> None:
        blocks = []
        for name in self._features(table):
            places = {part: schema.feature(part, name) for part in schema.FEATURE_DTYPES}
            found = {k: entries.pop(place) for k, place in places.items() if place in entries}
            blocks.append(FeatureBlock(**found))
        ids = entries.pop("sample_id").tolist()
        with _store_errors():  # not the segment's fault, see `opened`
            self._writer.append(table, ids, entries, *blocks)


def _joined(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _parts(group: h5py.Group, name: str) -> list[str]:
    return [part for part in schema.FEATURE_DTYPES if schema.feature(part, name) in group]


def _learn_windows(known: dict[int, Window], file: h5py.File, stop: int = 1 << 62) -> None:
    if "windows" in file:
        columns = {
            name: stored_dataset(file, f"windows/{name}", Path(file.filename))[:].tolist()
            for name in schema.WINDOW_COLUMNS
        }
        for i, index in enumerate(columns["window"]):
            if index < stop:
                known[index] = cast(Window, {name: values[i] for name, values in columns.items()})


def _expected(parts: list[Manifest], description: Description) -> int:
    return sum(part.n_rows for part in parts) + sum(description["base_rows"] or [])


def _totals(parts: list[Manifest], description: Description) -> tuple[int, dict[str, int]]:
    segments = [segment for part in parts for segment in part.segments]
    before = description.get("base_counts") or {"seen": 0, "kept_out": {}}
    kept_out: Counter[str] = Counter(before["kept_out"])
    for segment in segments:
        kept_out.update(segment.kept_out)
    return before["seen"] + sum(segment.seen for segment in segments), dict(kept_out)
