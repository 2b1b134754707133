"""One valuation run: windows are opened and closed, rows come in, codes go to the store.

States of a window: *open* (its query features are taken, rows come in) -> *closed* (the next
window's query features are known, so its drift is). States of a row: *waiting* (captured before
the first tower version; a bounded buffer) -> *written*. A window is encoded by one tower version:
the first is frozen when the buffer is full or the run ends, whichever comes first; a better one
may replace it only where a window starts.

Knows nothing of Lightning: `InfluenceCallback` and `extract_features` both drive it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.encoder.cotraining import CoTraining
from influcoder_lightning.encoder.gradient_tower import GradientTower
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.store.writer import FeatureBlock, StoreWriter


@dataclass
class Counts:
    """What became of every sample that was seen at a captured step."""

    seen: Counter[int | str] = field(default_factory=Counter)
    kept_out: dict[str, Counter[int | str]] = field(default_factory=dict)

    def keep_out(self, reason: str, ids: Sequence[int | str]) -> None:
        """Record samples that get no row, and why."""
        if ids:
            self.kept_out.setdefault(reason, Counter()).update(ids)

    @property
    def n_seen(self) -> int:
        """Samples seen, repeats included."""
        return self.seen.total()

    def summary(self) -> dict[str, Any]:
        """For the store's attributes and the closing message."""
        reasons = {reason: ids.total() for reason, ids in self.kept_out.items()}
        return {"seen": self.n_seen, "kept_out": reasons}


@dataclass
class _Window:
    index: int
    epoch: int
    start_step: int
    queries: Tensor | None
    version: int | None = None
    n_rows: int = 0


class Recorder:
    """Drives towers and writer. Call `open_window`, `add`, ..., `close`.

    Args:
        writer: the open store.
        tower: sketch -> code; without co-training it has its only version from the start.
        cotraining: trains the towers, or None.
        keep_sketches: also store the sketches.
    """

    def __init__(
        self,
        writer: StoreWriter,
        tower: GradientTower,
        cotraining: CoTraining | None,
        keep_sketches: bool,
    ) -> None:
        self.writer, self.tower, self.cotraining = writer, tower, cotraining
        self.keep_sketches = keep_sketches
        self.counts = Counts()
        self.rows_written = 0
        self._drifts: list[float] = []
        self._ends: list[int] = []
        self._window: _Window | None = None
        self._windows: list[_Window] = []
        self._waiting: list[tuple[str, _Window, RowBatch, dict[str, Any]]] = []
        self._n_waiting = 0

    @property
    def n_windows(self) -> int:
        """Windows opened so far."""
        return len(self._windows)

    @property
    def n_rows(self) -> int:
        """Rows taken in, written or waiting."""
        return self.rows_written + self._n_waiting

    def open_window(self, epoch: int, step: int, queries: RowBatch | None) -> float | None:
        """Start a window whose query features are ``queries``; returns the last window's drift."""
        drift = self._close_window(step, queries)
        if self.cotraining is not None and self.tower.versions and self._windows:
            self.cotraining.publish(required=False)
        window = _Window(
            len(self._windows), epoch, step, None if queries is None else queries.sketch
        )
        if self.tower.versions:
            window.version = len(self.tower.versions) - 1
        self._windows.append(window)
        self._window = window
        if queries is not None:
            if self.cotraining is not None:
                self.cotraining.observe_queries(queries.sketch)
            if len(self._windows) == 1 and queries.texts is not None:
                self.writer.append_query_texts(queries.texts)
            self._put("queries", window, queries, _query_columns(len(queries), at_end=False))
        return drift

    def add(self, rows: RowBatch, epoch: int, step: int, learning_rate: float) -> None:
        """Take in rows of the open window; non-finite ones are kept out and counted."""
        assert self._window is not None, "open_window first"
        finite = torch.isfinite(rows.norm) & torch.isfinite(rows.sketch).all(1)
        if not bool(finite.all()):
            dropped = rows.select(~finite).ids
            self.counts.keep_out("non-finite gradient", dropped)
            rows = rows.select(finite)
        if not len(rows):
            return
        columns = {"epoch": epoch, "step": step, "learning_rate": learning_rate}
        if self.cotraining is not None:
            self.cotraining.observe(rows.ids, rows.sketch, self._window.index, rows.texts)
        self._put("rows", self._window, rows, columns)
        self._window.n_rows += len(rows)
        if self.cotraining is not None and self._n_waiting >= self.cotraining.capacity:
            self._publish_first()

    def close(self, step: int, queries: RowBatch | None) -> float | None:
        """End the run: last window's drift, all rows written, the text tower solved, all checked.

        Raises:
            CaptureError: rows written and samples seen differ (the ids are listed).
        """
        last = self._window
        drift = self._close_window(step, queries)
        self._publish_first()
        if queries is not None and last is not None:
            self._put("queries", last, queries, _query_columns(len(queries), at_end=True))
        self._write_windows()
        if self.cotraining is not None and self.rows_written:
            text_tower = self.cotraining.finish_text_tower()
            if text_tower is not None:
                self.cotraining.save_text_tower(text_tower, self.writer.folder / "encoder")
        self.writer.set_attribute("counts", self.counts.summary() | {"written": self.rows_written})
        missing = self._missing()
        self.writer.close(complete=not missing, note="rows are missing" if missing else "")
        if missing:
            raise CaptureError(
                f"{self.counts.n_seen} samples were seen but {self.rows_written} rows written. "
                f"Missing or surplus ids: {', '.join(map(str, list(missing)[:20]))}"
                f"{' ...' if len(missing) > 20 else ''}."
            )
        return drift

    def abort(self, step: int, reason: str) -> None:
        """End early: write what was captured and mark the store incomplete."""
        if not self.writer.is_open:
            return
        self._close_window(step, None)
        self._publish_first()
        self._write_windows()
        self.writer.set_attribute("counts", self.counts.summary() | {"written": self.rows_written})
        self.writer.close(complete=False, note=reason)

    def _close_window(self, step: int, queries: RowBatch | None) -> float | None:
        window, self._window = self._window, None
        if window is None:
            return None
        drift = float("nan")
        if window.queries is not None and queries is not None:
            drift = float(functional.cosine_similarity(window.queries, queries.sketch).mean())
        window.queries = None
        self._drifts.append(drift)
        self._ends.append(step)
        return drift

    def _put(self, table: str, window: _Window, rows: RowBatch, columns: dict[str, Any]) -> None:
        if window.version is None:
            self._waiting.append((table, window, rows, columns))
            self._n_waiting += len(rows) * (table == "rows")
        else:
            self._write(table, window, rows, columns)

    def _publish_first(self) -> None:
        """Freeze the first version if there is none, and write every row that waited for it."""
        if not self.tower.versions and self.cotraining is not None:
            self.cotraining.publish(required=True)
        waiting, self._waiting, self._n_waiting = self._waiting, [], 0
        for table, window, rows, columns in waiting:
            window.version = 0 if window.version is None else window.version
            self._write(table, window, rows, columns)
        for window in self._windows:
            window.version = 0 if window.version is None else window.version

    def _write(
        self, table: str, window: _Window, rows: RowBatch, columns: Mapping[str, Any]
    ) -> None:
        assert window.version is not None
        feature = encoded_block(self.tower, window.version, rows, self.keep_sketches)
        shared = {
            "window": window.index,
            "n_tokens": rows.n_tokens.numpy(),
            "loss": rows.loss.float().numpy(),
            "tower_version": window.version,
        }
        self.writer.append(table, rows.ids, {**shared, **columns}, feature)
        if table == "rows":
            self.rows_written += len(rows)

    def _write_windows(self) -> None:
        for window, drift, end in zip(self._windows, self._drifts, self._ends, strict=True):
            self.writer.append_window(
                window=window.index,
                epoch=window.epoch,
                start_step=window.start_step,
                end_step=end,
                tower_version=window.version,
                drift=drift,
                n_rows=window.n_rows,
            )
        for version in range(len(self.tower.versions)):
            self.tower.save(self.writer.folder / "encoder" / "gradient", version)

    def _missing(self) -> Counter[int | str]:
        expected = Counter(self.counts.seen)
        for kept_out in self.counts.kept_out.values():
            expected.subtract(kept_out)
        expected.subtract(self.writer.row_ids().tolist())
        return Counter({i: n for i, n in expected.items() if n})


def _query_columns(n: int, *, at_end: bool) -> dict[str, Any]:
    return {"query": np.arange(n), "at_end": int(at_end)}


def encoded_block(
    tower: GradientTower, version: int, rows: RowBatch, keep_sketches: bool
) -> FeatureBlock:
    """Rows as the store keeps them, encoded by one version of the tower."""
    projected = tower.project(rows.sketch, version)
    return FeatureBlock(
        functional.normalize(projected, dim=1).half().numpy(),
        rows.norm.float().numpy(),
        projected.norm(dim=1).numpy(),
        rows.sketch.numpy() if keep_sketches else None,
    )
