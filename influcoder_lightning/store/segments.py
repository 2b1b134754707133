"""Rows on their way to the store, durable in sealed segments.

States of a segment::

    open      in memory; a crash costs it. At most `max_rows` rows, `max_seconds` old, or 16 MiB.
    written   under a temporary name, then synced; its sketches, in a file beside it, first
    renamed   has its name, but no line in the manifest: does not count, removed on resume
    sealed    its line (name, checksum, rows) is in the manifest and synced: this is what "written"
              means; from here on the file never changes
    merged    its rows are in influence.h5; the file is removed

While a run goes on, ``segments/rank_NNNNN/`` holds the segments of each process. Opening a store
whose run was killed merges what was sealed (`influcoder_lightning.recovery`).
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import h5py
import numpy as np

from influcoder_lightning.durable import durable_path
from influcoder_lightning.errors import CaptureError, StoreError
from influcoder_lightning.store import schema
from influcoder_lightning.store.flat import flat_path, write_flat
from influcoder_lightning.store.manifest import Manifest, Segment

SEGMENTS = "segments"
_MOST_BYTES = 1 << 24  # small enough that memory is used again and not fetched anew


@dataclass
class FeatureBlock:
    """One named feature of n rows.

    Attributes:
        norm: [n] gradient norms.
        code: [n, d] float16, or None while rows wait for a tower version.
        length: [n] of the unit sketch in the code space, or None with ``code``.
        sketch: [n, D] float32, or None.
    """

    norm: np.ndarray
    code: np.ndarray | None = None
    length: np.ndarray | None = None
    sketch: np.ndarray | None = None

    def parts(self) -> dict[str, np.ndarray]:
        """The parts that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


_Entries = tuple[list[int | str], dict[str, Any], dict[str, FeatureBlock]]
"""Ids, columns and features of entries that came together."""


class SegmentWriter:
    """The open segment of one process.

    Args:
        folder: of the store.
        rank: of the process.
        max_rows: rows after which a segment is sealed.
        max_seconds: age at which it is.
    """

    def __init__(self, folder: Path, rank: int, *, max_rows: int, max_seconds: float) -> None:
        place = rank_folder(folder, rank)
        place.mkdir(parents=True, exist_ok=True)
        self.manifest = Manifest(place)
        # A renamed file without a line in the manifest does not count.
        self.manifest.keep(self.manifest.segments)
        self.max_rows, self.max_seconds = max_rows, max_seconds
        self._id_dtypes: dict[str, Any] = {}
        self._begun: float | None = None
        self._n_rows, self._waiting = 0, False
        self._next = 1 + max((int(s.file[:8]) for s in self.manifest.segments), default=-1)
        self._clear()

    @property
    def n_rows(self) -> int:
        """Rows taken in, sealed or not."""
        return self.manifest.n_rows + self._n_rows

    def totals(self) -> tuple[int, dict[str, int]]:
        """Samples seen, and kept out by reason, sealed or not."""
        kept: Counter[str] = Counter()
        for segment in self.manifest.segments:
            kept.update(segment.kept_out)
        kept.update({reason: ids.total() for reason, ids in self._kept_out.items()})
        return sum(s.seen for s in self.manifest.segments) + self._seen.total(), dict(kept)

    def see(self, ids: Sequence[int | str]) -> None:
        """Count samples of a captured step; each needs a row, or a reason to have none."""
        self._seen.update(ids)

    def keep_out(self, reason: str, ids: Sequence[int | str]) -> None:
        """Count samples that get no row, and why."""
        if len(ids):
            self._kept_out.setdefault(reason, Counter()).update(ids)

    def append(
        self,
        table: str,
        ids: Sequence[int | str],
        columns: Mapping[str, Any],
        feature: FeatureBlock,
        update: FeatureBlock | None = None,
    ) -> None:
        """Append entries to ``"rows"`` or ``"queries"``.

        Args:
            table: which of them.
            ids: n sample ids.
            columns: of the table, each [n] or one value for all.
            feature: the gradients.
            update: the optimizer updates of the same entries; for all of a table or for none.

        Raises:
            DataError: ids mix integers and text.
        """
        waiting = feature.code is None
        assert waiting == self._waiting or not any(self._tables.values()), "seal first"
        self._waiting = waiting
        schema.encode_ids(ids, self._id_dtypes.setdefault(table, schema.id_dtype(ids)))
        values = {n: np.broadcast_to(np.asarray(v), (len(ids),)) for n, v in columns.items()}
        features = {schema.GRADIENT: feature}
        if update is not None:
            features[schema.UPDATE] = update
        self._tables[table].append((list(ids), values, features))
        for block in features.values():
            self._n_bytes += sum(part.nbytes for part in block.parts().values())
        self._n_rows += len(ids) * (table == "rows")

    def append_query_texts(self, texts: Sequence[Mapping[str, str]]) -> None:
        """Append the queries' texts, in the order of their positions."""
        self._texts += [json.dumps(dict(text)) for text in texts]

    def put_window(self, values: Mapping[str, Any]) -> None:
        """What is now known of a window; replaces what was known before."""
        self._windows[values["window"]] = dict(values)

    def tick(self) -> None:
        """Seal the open segment if it is full or old."""
        old = self._begun is not None and monotonic() - self._begun >= self.max_seconds
        if self._n_rows >= self.max_rows or self._n_bytes >= _MOST_BYTES or old:
            self.seal()
        elif self._begun is None and (self._n_rows or self._seen):
            self._begun = monotonic()

    def explain_missing(self, reason: str) -> None:
        """Count the samples of the open segment that have no row yet as kept out."""
        self.keep_out(reason, list(self._missing().elements()))

    def seal(self) -> None:
        """Make the open segment durable; does nothing if it is empty.

        Raises:
            CaptureError: samples seen and rows in the file differ (the ids are listed).
            StoreError: the disk does not take it; the segment stays open.
        """
        anything = any(self._tables.values()) or self._windows or self._texts
        if not (anything or self._seen or self._kept_out):
            return
        missing = self._missing()
        if missing:
            n_rows, some = self._n_rows, list(missing)[:20]
            raise CaptureError(
                f"{self._seen.total()} samples were seen but {n_rows} rows written. Missing or "
                f"surplus ids: {', '.join(map(str, some))}{' ...' * (len(missing) > 20)}."
            )
        path = self.manifest.folder / f"{self._next:08d}.h5"
        image = self._image()
        sketches = self._sketches()
        try:
            entry = Segment(
                file=path.name,
                crc32=f"{zlib.crc32(image):08x}",
                rows=self._n_rows,
                seen=self._seen.total(),
                waiting=self._waiting,
                flat_crc32=write_flat(flat_path(path), sketches) if sketches else "",
                kept_out={reason: ids.total() for reason, ids in self._kept_out.items()},
            )
            with durable_path(path) as part:
                part.write_bytes(image)
            self.manifest.append(entry)
        except OSError as error:
            raise StoreError(
                f"{path} could not be written ({error}). The {self.manifest.n_rows} rows before it "
                "are safe: make room, open the store to keep them, or go on from a checkpoint."
            ) from error
        self._next += 1
        self._clear()

    def _missing(self) -> Counter[int | str]:
        expected = Counter(self._seen)
        for kept_out in self._kept_out.values():
            expected.subtract(kept_out)
        for ids, _, _ in self._tables["rows"]:
            expected.subtract(ids)
        return Counter({i: n for i, n in expected.items() if n})

    def _sketches(self) -> list[np.ndarray]:
        blocks = [
            features[name]
            for table in schema.TABLES
            for name in schema.FEATURES
            for _, _, features in self._tables[table]
            if name in features
        ]
        return [block.sketch for block in blocks if block.sketch is not None]

    def _image(self) -> bytes:
        """The segment's HDF5 file, made in memory: HDF5 takes a full disk badly."""
        with h5py.File("segment.h5", "x", driver="core", backing_store=False) as file:
            self._write(file)
            file.flush()
            return bytes(file.id.get_file_image())

    def _write(self, file: h5py.File) -> None:
        for table, entries in self._tables.items():
            if not entries:
                continue
            group = file.create_group(table)
            ids = [i for part, _, _ in entries for i in part]
            dtype = schema.id_dtype(ids)
            group.create_dataset("sample_id", data=schema.encode_ids(ids, dtype), dtype=dtype)
            for name, kind in schema.TABLES[table].items():
                values = np.concatenate([columns[name] for _, columns, _ in entries])
                group.create_dataset(name, data=values, dtype=kind)
            for feature, block in entries[0][2].items():
                for name in block.parts():
                    if name != "sketch":
                        blocks = [features[feature].parts()[name] for _, _, features in entries]
                        place, kind = schema.feature(name, feature), schema.FEATURE_DTYPES[name]
                        group.create_dataset(place, data=np.concatenate(blocks), dtype=kind)
        if self._texts:
            file.create_dataset("query_text", data=self._texts, dtype=h5py.string_dtype())
        if self._windows:
            group = file.create_group("windows")
            for name, kind in schema.WINDOW_COLUMNS.items():
                known = np.asarray([window[name] for window in self._windows.values()])
                group.create_dataset(name, data=known, dtype=kind)

    def _clear(self) -> None:
        self._tables: dict[str, list[_Entries]] = {table: [] for table in schema.TABLES}
        self._windows: dict[int, dict[str, Any]] = {}
        self._texts: list[str] = []
        self._seen: Counter[int | str] = Counter()
        self._kept_out: dict[str, Counter[int | str]] = {}
        self._n_rows, self._n_bytes, self._waiting = 0, 0, False
        self._begun = None


def rank_folder(folder: Path, rank: int) -> Path:
    """Where the segments of one process are, inside the folder of a store."""
    return folder / SEGMENTS / f"rank_{rank:05d}"
