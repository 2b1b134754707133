"""Segments and their manifest alone: the smallest life, for every operation and every fault."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
from disk import Disk, Fault, Killed

from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.folder import rank_folder, run_file
from influcoder_lightning.store.manifest import Manifest
from influcoder_lightning.store.segments import FeatureBlock, SegmentWriter

WIDTH, PARTS = 4, [[0, 1], [2]]
IDS = [i for ids in PARTS for i in ids]


def prepare(folder: Path) -> None:
    """A run whose process has described it."""
    run_file(folder).parent.mkdir(parents=True)
    text = (
        '{"world_size": 1, "bounds": {"rows": 9, "seconds": 9}, "generation": "x",'
        '"base_rows": null, "store": {"code_dim": 2, "sketch_dim": 4, "keep_sketches": true,'
        '"layers": [], "attributes": {}}}'
    )
    run_file(folder).write_text(text)


def writer(folder: Path) -> SegmentWriter:
    return SegmentWriter(folder, 0, max_rows=99, max_seconds=1e9)


def put(segments: SegmentWriter, ids: list[int]) -> None:
    n = len(ids)
    sketch = np.repeat(np.array(ids, "f4")[:, None], WIDTH, 1)
    columns = dict.fromkeys(("window", "epoch", "step", "n_tokens"), 0)
    columns |= {"loss": 0.5, "learning_rate": 0.1, "tower_version": -1}
    segments.see(ids)
    segments.append("rows", ids, columns, FeatureBlock(norm=np.ones(n, "f4"), sketch=sketch))


def sealed(folder: Path) -> list[int]:
    """The ids that a new process finds, in order; every file is what was sealed."""
    place = rank_folder(folder, 0)
    if not place.exists():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manifest = Manifest(place, "x")
    ids = []
    for segment in manifest.segments:
        path = manifest.verified(segment)
        with h5py.File(path, "r") as file:
            ids += file["rows/sample_id"][:].tolist()
        sketches = np.fromfile(path.with_suffix(".f4"), "<f4").reshape(-1, WIDTH)
        assert sketches[:, 0].tolist() == ids[-segment.rows :]
    return ids


class Process:
    """Takes in rows and seals them; ``reported``: those that `seal` said were written."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self.folder, self.disk = folder, Disk(folder, fault)
        self.reported, self.taken = 0, 0
        self.segments: SegmentWriter | None = None

    def run(self) -> None:
        """To its end, or to its death; in trouble it tries again, as `abort` does."""
        with self.disk.mounted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._train()
            except Killed:
                pass
            except (KeyboardInterrupt, StoreError, OSError):
                self._abort()
            if self.disk.fault.kind.startswith("power") and self.disk.happened:
                self.disk.power_cut(names_kept="names" in self.disk.fault.kind)

    def _train(self) -> None:
        self.segments = writer(self.folder)
        for ids in PARTS:
            put(self.segments, ids)
            self.taken += len(ids)
            self.segments.seal()
            self.reported = self.taken

    def _abort(self) -> None:
        if self.segments is None:
            return
        try:
            self.segments.explain_missing("it ended")
            self.segments.seal()
            self.reported = self.taken
        except (StoreError, OSError):
            self.disk.repair()  # room again, too late
            if self.disk.fault.at % 2:  # the user's next try, or none
                self.segments.seal()
                self.reported = self.taken
