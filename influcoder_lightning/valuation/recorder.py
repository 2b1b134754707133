"""One valuation run: windows are opened and closed, rows come in, segments go to the disk.

States of a window: *open* (its query features are taken, rows come in) -> *closed* (the next
window's query features are known, so its drift is). States of a row: *waiting* (captured before
the first tower version, so kept as a sketch) -> *encoded*. A window is encoded by one tower
version: the first is frozen when enough rows wait or the run ends, whichever comes first; a better
one may replace it only where a window starts.

With several processes each records its own rows. The first process co-trains, on rows that the
others hand over, and gives its tower versions to them; windows open and versions appear in all of
them at the same step.

Knows nothing of Lightning: `InfluenceCallback` and `extract_features` both drive it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.encoder.cotraining import CoTraining
from influcoder_lightning.encoder.gradient_tower import GradientTower, load_version
from influcoder_lightning.processes import Processes
from influcoder_lightning.store.description import Window
from influcoder_lightning.store.segments import FeatureBlock, SegmentWriter
from influcoder_lightning.valuation.handed_rows import HandedRows


@dataclass
class _Window:
    index: int
    epoch: int
    start_step: int
    version: int = -1
    end_step: int = -1
    drift: float = float("nan")

    def entry(self) -> Window:
        """As the table of windows has it; its rows are counted when segments are merged."""
        return {
            "window": self.index,
            "epoch": self.epoch,
            "start_step": self.start_step,
            "end_step": self.end_step,
            "tower_version": self.version,
            "drift": self.drift,
            "n_rows": 0,
        }


class Recorder:
    """Drives towers and segments. Call `open_window`, `add`, `end_step`, ..., `close`.

    Args:
        segments: the open segment of this process.
        tower: sketch -> code; without co-training it has its only version from the start.
        cotraining: trains the towers; None without co-training, and in all but the first process.
        keep_sketches: also store the sketches.
        towers: folder of the gradient tower's versions.
        processes: of the run.
        handed: rows on their way to the first process; None without co-training.
    """

    def __init__(
        self,
        segments: SegmentWriter,
        tower: GradientTower,
        cotraining: CoTraining | None,
        *,
        keep_sketches: bool,
        towers: Path,
        processes: Processes,
        handed: HandedRows | None = None,
    ) -> None:
        self.segments, self.tower, self.cotraining = segments, tower, cotraining
        self.keep_sketches, self._towers, self._processes = keep_sketches, towers, processes
        self._windows: list[_Window] = []
        self._window: _Window | None = None
        self._queries: Tensor | None = None
        self._n_waiting = 0
        self.n_queries = 0
        self._handed = handed
        if tower.versions and processes.first:
            tower.save(towers, 0)

    @property
    def n_windows(self) -> int:
        """Windows opened so far."""
        return len(self._windows)

    def open_window(
        self, epoch: int, step: int, queries: RowBatch | None, *, comparable: bool = True
    ) -> float | None:
        """Start a window whose query features are ``queries``; returns the last window's drift.

        There is none where they are not ``comparable`` with those of before, of other layers.
        """
        drift = self._close_window(step, queries if comparable else None)
        if self.tower.versions and self._windows:
            self._publish(required=False)
        window = _Window(self.n_windows, epoch, step, len(self.tower.versions) - 1)
        self._windows.append(window)
        self._window = window
        self._note(window)
        if queries is not None:
            self._queries, self.n_queries = queries.sketch, len(queries)
            if self.cotraining is not None:
                self.cotraining.observe_queries(queries.sketch)
            if window.index == 0 and queries.texts is not None and self._processes.first:
                self.segments.append_query_texts(queries.texts)
            self._put_queries(window, queries, at_end=False)
        return drift

    def see(self, ids: Sequence[int | str]) -> None:
        """Count samples of a captured step: each must get a row or a reason to have none."""
        self.segments.see(ids)

    def keep_out(self, reason: str, ids: Sequence[int | str]) -> None:
        """Count samples that get no row, and why."""
        self.segments.keep_out(reason, ids)

    def add(self, rows: RowBatch, epoch: int, step: int, learning_rate: float) -> None:
        """Take in rows of the open window; non-finite ones are kept out and counted."""
        assert self._window is not None, "open_window first"
        finite = torch.isfinite(rows.norm) & torch.isfinite(rows.sketch.sum(1))
        if rows.update is not None:
            finite &= torch.isfinite(rows.update.norm) & torch.isfinite(rows.update.sketch.sum(1))
        if not bool(finite.all()):
            self.keep_out("non-finite gradient", rows.select(~finite).ids)
            rows = rows.select(finite)
        if not len(rows):
            return
        if self.cotraining is not None:
            self.cotraining.observe(rows.ids, rows.sketch, self._window.index, rows.texts)
        elif self._handed is not None:
            self._handed.add(rows.ids, rows.sketch, self._window.index, rows.texts)
        columns: dict[str, object] = {"epoch": epoch, "step": step, "learning_rate": learning_rate}
        added = {name: values.float().numpy() for name, values in rows.columns.items()}
        self._put("rows", self._window, rows, columns | added)
        self._n_waiting += len(rows) * (not self.tower.versions)

    def end_step(self) -> None:
        """After all rows of an optimizer step: the first version, a full segment."""
        if not self.tower.versions:
            enough = self._handed is not None and self._n_waiting >= self._handed.capacity
            if self._processes.broadcast(enough):
                self._publish(required=True)
        self.segments.tick()

    def close(self, step: int, queries: RowBatch | None) -> float | None:
        """End the run: all rows encoded or ready to be, everything sealed; returns the drift.

        Raises:
            CaptureError: rows written and samples seen differ (the ids are listed).
        """
        last = self._window
        drift = self._close_window(step, queries)
        if not self.tower.versions:
            self._publish(required=True)
        else:
            self.hand_over()  # the text tower is still to be learned
        if queries is not None and last is not None:
            self._put_queries(last, queries, at_end=True)
        self.segments.seal()
        return drift

    def abort(self, step: int) -> None:
        """End early: what was captured is sealed; a micro-batch under way is counted as lost."""
        self.segments.explain_missing("the run ended before its row was taken")
        self._close_window(step, None)
        if not self.tower.versions and self._processes.size == 1:
            self._publish(required=True)
        self.segments.seal()

    def windows(self) -> list[Window]:
        """The table of windows."""
        return [window.entry() for window in self._windows]

    def hand_over(self) -> None:
        """Let the first process's towers learn from everybody's rows; all processes call it."""
        if self._handed is not None:
            self._handed.hand_over(self.cotraining)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a checkpoint needs, as JSON values and tensors; the open segment is sealed."""
        self.segments.seal()
        values = {
            "windows": [vars(window) for window in self._windows],
            "open": None if self._window is None else self._window.index,
            "n_waiting": self._n_waiting,
            "n_versions": len(self.tower.versions),
            "n_queries": self.n_queries,
        }
        return values, {} if self._queries is None else {"queries": self._queries}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._windows = [_Window(**window) for window in values["windows"]]
        self._window = None if values["open"] is None else self._windows[values["open"]]
        self._n_waiting, self.n_queries = values["n_waiting"], values["n_queries"]
        self._queries = tensors.get("queries")
        for version in range(len(self.tower.versions), values["n_versions"]):
            self.tower.versions += load_version(self._towers, version).versions

    def _close_window(self, step: int, queries: RowBatch | None) -> float | None:
        window, self._window = self._window, None
        if window is None:
            return None
        if self._queries is not None and queries is not None:
            cosines = functional.cosine_similarity(self._queries, queries.sketch)
            window.drift = float(cosines.mean())
        window.end_step, self._queries = step, None
        self._note(window)
        return window.drift

    def _note(self, window: _Window) -> None:
        if self._processes.first:
            self.segments.put_window(window.entry())

    def _publish(self, required: bool) -> None:
        """Freeze a version if it is required or clearly better; every process gets it."""
        self.hand_over()
        frozen = self.cotraining is not None and self.cotraining.publish(required)
        basis = self._processes.broadcast(self.tower.versions[-1] if frozen else None)
        if basis is None:
            return
        # Rows that waited stay sketches on the disk until merging encodes them.
        self.segments.seal()
        if self.cotraining is None:
            self.tower.versions.append(basis)
        if self._processes.first:
            self.tower.save(self._towers, len(self.tower.versions) - 1)
        if len(self.tower.versions) == 1:
            for window in self._windows:
                window.version = 0
                self._note(window)

    def _put_queries(self, window: _Window, queries: RowBatch, *, at_end: bool) -> None:
        if self._processes.first:  # all processes have the same ones
            columns = {"query": np.arange(len(queries)), "at_end": int(at_end)}
            self._put("queries", window, queries, columns)

    def _put(
        self, table: str, window: _Window, rows: RowBatch, columns: Mapping[str, object]
    ) -> None:
        update = rows.update
        feature = self._block(window, rows.sketch, rows.norm)
        second = None if update is None else self._block(window, update.sketch, update.norm)
        shared = {
            "window": window.index,
            "n_tokens": rows.n_tokens.numpy(),
            "loss": rows.loss.float().numpy(),
            "tower_version": window.version,
        }
        self.segments.append(table, rows.ids, {**shared, **columns}, feature, second)

    def _block(self, window: _Window, sketch: Tensor, norm: Tensor) -> FeatureBlock:
        """Rows as their segment keeps them: encoded, or waiting for the first version."""
        if self.tower.versions:
            return encoded_block(self.tower, window.version, sketch, norm, self.keep_sketches)
        return FeatureBlock(norm=norm.float().numpy(), sketch=sketch.numpy())


def encoded_block(
    tower: GradientTower, version: int, sketch: Tensor, norm: Tensor, keep_sketches: bool
) -> FeatureBlock:
    """Rows as the store keeps them, encoded by one version of the tower.

    Args:
        tower: with that version.
        version: its number in ``tower.versions``.
        sketch: [n, D] float32.
        norm: [n] gradient norms.
        keep_sketches: keep them beside the codes.
    """
    projected = tower.project(sketch, version)
    return FeatureBlock(
        norm=norm.float().numpy(),
        code=functional.normalize(projected, dim=1).half().numpy(),
        length=projected.norm(dim=1).numpy(),
        sketch=sketch.numpy() if keep_sketches else None,
    )
