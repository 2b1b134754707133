"""Rows on their way to the store, durable in sealed segments.

States of a segment::

    open       in memory; a crash costs it. At most `max_rows` rows, `max_seconds` old, or 16 MiB
    frozen     in memory, its content made once and for all, its number taken; the next one is open
    written    under a temporary name, then synced; its sketches, in a file beside it, first
    renamed    has its name, but no line in the manifest: does not count, removed on resume
    sealed     its line (name, checksum, rows) is in the manifest and synced: this is what "written"
               means; from here on the file never changes
    merged     its rows are in influence.h5; the file is removed

    open -> frozen -> written -> renamed -> sealed -> merged
              ^          |          |
              +----------+----------+   a full disk, an error of it, an interruption

A segment that is not sealed goes back to frozen, and the next `SegmentWriter.seal` writes the same
bytes under the same name. Whether it was sealed before something went wrong is what the manifest on
the disk says. Freezing and forgetting are one assignment each, so that an interruption at any
instruction finds every row in one segment.

While a run goes on, ``segments/rank_NNNNN/`` holds the segments of each process. Opening a store
whose run was killed merges what was sealed (`influcoder_lightning.valuation.finish`).
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from influcoder_lightning.errors import StoreError
from influcoder_lightning.files import durable_folder, write_durably
from influcoder_lightning.store import schema
from influcoder_lightning.store.description import Window
from influcoder_lightning.store.flat import flat_path, write_flat
from influcoder_lightning.store.folder import rank_folder, read_description
from influcoder_lightning.store.manifest import Manifest, Segment
from influcoder_lightning.store.open_segment import FeatureBlock, OpenSegment

_MOST_BYTES = 1 << 24  # small enough that memory is used again and not fetched anew


@dataclass
class _Frozen:
    """A segment that is to be sealed: its content, its name, the image of its file."""

    content: OpenSegment
    file: str
    image: bytes = field(repr=False)


class SegmentWriter:
    """The segments of one process.

    Args:
        folder: of the store.
        rank: of the process.
        max_rows: rows after which a segment is sealed.
        max_seconds: age at which it is.

    Raises:
        StoreError: the run that the folder describes has damaged segments, or the disk takes none.
    """

    def __init__(self, folder: Path, rank: int, *, max_rows: int, max_seconds: float) -> None:
        try:
            place = durable_folder(rank_folder(folder, rank))
            self.manifest = Manifest(place, read_description(folder)["generation"])
            # A renamed file without a line in the manifest does not count.
            self.manifest.keep(self.manifest.segments)
        except OSError as error:
            raise StoreError(
                f"{rank_folder(folder, rank)} could not be written ({error}). Make room, or choose "
                "another folder."
            ) from error
        self.max_rows, self.max_seconds = max_rows, max_seconds
        self._id_dtypes: dict[str, Any] = {}
        # The frozen segment, if any, and the open one: one attribute, see above.
        self._segments: tuple[_Frozen | None, OpenSegment] = (None, OpenSegment())

    @property
    def n_rows(self) -> int:
        """Rows taken in, sealed or not."""
        return self.manifest.n_rows + sum(content.n_rows for content in self._unsealed())

    def totals(self) -> tuple[int, dict[str, int]]:
        """Samples seen, and kept out by reason, sealed or not."""
        seen, kept = 0, Counter[str]()
        for segment in self.manifest.segments:
            seen += segment.seen
            kept.update(segment.kept_out)
        for content in self._unsealed():
            seen += content.seen.total()
            kept.update({reason: ids.total() for reason, ids in content.kept_out.items()})
        return seen, dict(kept)

    def see(self, ids: Sequence[int | str]) -> None:
        """Count samples of a captured step; each needs a row, or a reason to have none."""
        self._open.seen.update(ids)

    def keep_out(self, reason: str, ids: Sequence[int | str]) -> None:
        """Count samples that get no row, and why."""
        if len(ids):
            self._open.kept_out.setdefault(reason, Counter()).update(ids)

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
        schema.encode_ids(ids, self._id_dtypes.setdefault(table, schema.id_dtype(ids)))
        columns = schema.completed(table, columns)
        values = {n: np.broadcast_to(np.asarray(v), (len(ids),)) for n, v in columns.items()}
        features = {schema.GRADIENT: feature}
        if update is not None:
            features[schema.UPDATE] = update
        self._open.append(table, (list(ids), values, features))

    def append_query_texts(self, texts: Sequence[Mapping[str, str]]) -> None:
        """Append the queries' texts, in the order of their positions."""
        self._open.texts += [json.dumps(dict(text)) for text in texts]

    def put_window(self, values: Window) -> None:
        """What is now known of a window; replaces what was known before."""
        self._open.windows[values["window"]] = {**values}

    def tick(self) -> None:
        """Seal the open segment if it is full or old, and one that could not be sealed before."""
        frozen, content = self._segments
        full = content.n_rows >= self.max_rows or content.n_bytes >= _MOST_BYTES
        if full or content.age() >= self.max_seconds or frozen is not None:
            self.seal()

    def explain_missing(self, reason: str) -> None:
        """Count the samples of the open segment that have no row yet as kept out."""
        self.keep_out(reason, list(self._open.missing().elements()))

    def seal(self) -> None:
        """Make everything durable that was taken in; call it again after any failure.

        Raises:
            CaptureError: samples seen and rows in the open segment differ (the ids are listed).
            StoreError: the disk does not take it; the segment stays in memory.
        """
        try:
            if self._segments[0] is not None:
                self._seal_frozen()
            content = self._open
            if content.empty:
                return
            content.check()
            frozen = _Frozen(content, f"{self.manifest.free_number():08d}.h5", content.image())
            self._segments = (frozen, OpenSegment())
            self._seal_frozen()
        except OSError as error:
            raise StoreError(
                f"a segment could not be written to {self.manifest.folder} ({error}). The "
                f"{self.manifest.n_rows} rows before it are safe: make room, open the store to "
                "keep them, or go on from a checkpoint."
            ) from error

    @property
    def _open(self) -> OpenSegment:
        return self._segments[1]

    def _unsealed(self) -> list[OpenSegment]:
        frozen, content = self._segments
        return [content] if frozen is None else [frozen.content, content]

    def _seal_frozen(self) -> None:
        frozen, _ = self._segments
        assert frozen is not None
        if not self.manifest.lists(frozen.file):
            self.manifest.append(self._written(frozen))
        self._segments = (None, self._open)

    def _written(self, frozen: _Frozen) -> Segment:
        """Its files, under their names; returns what the manifest says of them."""
        path, content = self.manifest.folder / frozen.file, frozen.content
        sketches = content.sketches()
        flat_crc32 = write_flat(flat_path(path), sketches) if sketches else ""
        write_durably(path, [frozen.image])
        return Segment(
            file=frozen.file,
            crc32=f"{zlib.crc32(frozen.image):08x}",
            rows=content.n_rows,
            seen=content.seen.total(),
            waiting=bool(content.waiting),
            flat_crc32=flat_crc32,
            kept_out={reason: ids.total() for reason, ids in content.kept_out.items()},
        )
