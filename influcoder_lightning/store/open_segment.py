"""The segment that rows go to, in memory, until it is full, old, or a checkpoint needs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import h5py
import numpy as np

from influcoder_lightning.errors import CaptureError
from influcoder_lightning.store import schema


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


Entries = tuple[list[int | str], dict[str, Any], dict[str, FeatureBlock]]
"""Ids, columns and features of entries that came together."""


class OpenSegment:
    """Entries of one stretch of training, and what has become of its samples."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Entries]] = {table: [] for table in schema.TABLES}
        self.windows: dict[int, Mapping[str, object]] = {}
        self.texts: list[str] = []
        self.seen: Counter[int | str] = Counter()
        self.kept_out: dict[str, Counter[int | str]] = {}
        self.n_bytes = 0
        self.begun: float | None = None

    @property
    def n_rows(self) -> int:
        """Rows in it; counted anew, so that an interruption finds no other number."""
        return sum(len(ids) for ids, _, _ in self.tables["rows"])

    @property
    def waiting(self) -> bool | None:
        """Whether its entries wait for a tower version; None where it has none."""
        for entries in self.tables.values():
            for _, _, features in entries:
                return features[schema.GRADIENT].code is None
        return None

    @property
    def empty(self) -> bool:
        """Nothing to be kept."""
        anything = any(self.tables.values()) or self.windows or self.texts
        return not (anything or self.seen or self.kept_out)

    def append(self, table: str, entries: Entries) -> None:
        """Take in entries of a table, all waiting or none."""
        _, _, features = entries
        assert self.waiting in (None, features[schema.GRADIENT].code is None), "seal first"
        self.tables[table].append(entries)
        for block in features.values():
            self.n_bytes += sum(part.nbytes for part in block.parts().values())

    def age(self) -> float:
        """Seconds since it was first asked with something in it."""
        if self.begun is None and (self.seen or self.tables["rows"]):
            self.begun = monotonic()
        return 0.0 if self.begun is None else monotonic() - self.begun

    def check(self) -> None:
        """Every sample seen has a row, or a reason to have none.

        Raises:
            CaptureError: not so (the ids are listed).
        """
        if missing := self.missing():
            some = list(missing)[:20]
            raise CaptureError(
                f"{self.seen.total()} samples were seen but {self.n_rows} rows written. Missing or "
                f"surplus ids: {', '.join(map(str, some))}{' ...' * (len(missing) > 20)}."
            )

    def missing(self) -> Counter[int | str]:
        """Samples that were seen but have neither a row nor a reason; below 0: surplus rows."""
        expected = Counter(self.seen)
        for kept_out in self.kept_out.values():
            expected.subtract(kept_out)
        for ids, _, _ in self.tables["rows"]:
            expected.subtract(ids)
        return Counter({i: n for i, n in expected.items() if n})

    def sketches(self) -> list[np.ndarray]:
        """Blocks [n, D] of all sketches, in the order of the flat file."""
        blocks = [
            features[name]
            for table in schema.TABLES
            for name in schema.FEATURES
            for _, _, features in self.tables[table]
            if name in features
        ]
        return [block.sketch for block in blocks if block.sketch is not None]

    def image(self) -> bytes:
        """The HDF5 file of everything but the sketches, made in memory; equal for equal content."""
        with h5py.File("segment.h5", "x", driver="core", backing_store=False) as file:
            self._write(file)
            file.flush()
            return bytes(file.id.get_file_image())

    def _write(self, file: h5py.File) -> None:
        for table, entries in self.tables.items():
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
        if self.texts:
            file.create_dataset("query_text", data=self.texts, dtype=h5py.string_dtype())
        if self.windows:
            group = file.create_group("windows")
            for name, kind in schema.WINDOW_COLUMNS.items():
                known = np.asarray([window[name] for window in self.windows.values()])
                group.create_dataset(name, data=known, dtype=kind)
