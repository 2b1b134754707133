"""A valuation without a model: what `Valuation` does to its store, driven by a plain loop."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from disk import Disk, Fault, Killed

from influcoder_lightning import InfluenceStore
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.encoder.cotraining import CoTraining
from influcoder_lightning.encoder.gradient_tower import GradientTower, RandomProjection
from influcoder_lightning.errors import StoreError
from influcoder_lightning.processes import Processes
from influcoder_lightning.store.folder import RunFolder, read_description
from influcoder_lightning.store.segments import SegmentWriter
from influcoder_lightning.valuation.finish import TOWERS, finish, finish_early
from influcoder_lightning.valuation.recorder import Recorder
from influcoder_lightning.valuation.resume import restore, rewind, save, tidy

WIDTH, DIM, BATCH, STEPS = 6, 3, 2, 5
CHECKPOINT_AT = 3


@dataclass
class Seen:
    """What the process has told the world before it ended."""

    sealed: int = 0
    taken: int = 0
    pointer: dict[str, Any] | None = None
    finished: bool = False
    errors: list[BaseException] = field(default_factory=list)


def description(co_train: bool) -> dict[str, Any]:
    attributes = {
        "config": {"mode": "training", "co_train": co_train},
        "lora": {},
        "projector": {"version": 1},
    }
    store = {"code_dim": DIM, "sketch_dim": WIDTH, "keep_sketches": True}
    store |= {"layers": [("a", 2, 3, 0)], "attributes": attributes}
    return {"world_size": 1, "bounds": {"rows": 4, "seconds": 60.0}, "store": store}


def rows_of(ids: list[int]) -> RowBatch:
    """Rows whose numbers follow from their ids."""
    generator = torch.Generator()
    parts = [torch.randn(1, WIDTH, generator=generator.manual_seed(1 + i)) for i in ids]
    sketch = torch.cat(parts)
    n = len(ids)
    return RowBatch(ids, sketch, sketch.norm(dim=1), torch.full((n,), 3), torch.full((n,), 0.5))


def live(folder: Path, seen: Seen, *, co_train: bool = False, checkpoint_at: int = CHECKPOINT_AT):
    """One process: starts the run, or goes on from ``seen.pointer``, to its end."""
    pointer, seen.taken = seen.pointer, 0
    run = RunFolder(folder)
    try:
        if pointer is None:
            run.start(description(co_train))
        else:
            rewind(run, pointer, description(co_train))
        recorder = new_recorder(folder, co_train)
        extra = {"step": 0} if pointer is None else restore(folder, recorder, Processes(), pointer)
        try:
            _train(folder, recorder, seen, int(extra["step"]), checkpoint_at)
            recorder.close(STEPS, rows_of([100, 101]))
            own = recorder.segments.manifest
            finish(folder, read_description(folder), own=own)
            seen.finished = True
            tidy(run)
        except Killed:
            raise
        except BaseException as error:
            seen.errors.append(error)
            _abort(folder, recorder, error)
            raise
    finally:
        run.release()


def new_recorder(folder: Path, co_train: bool) -> Recorder:
    segments = SegmentWriter(folder, 0, max_rows=4, max_seconds=1e9)
    tower, cotraining = RandomProjection(WIDTH, DIM, 0), None
    if co_train:
        tower = GradientTower(WIDTH, DIM)
        cotraining = CoTraining(tower, text_encoder=None, buffer_bytes=1 << 12, seed=0)
    return Recorder(
        segments,
        tower,
        cotraining,
        keep_sketches=True,
        towers=folder / TOWERS,
        processes=Processes(),
    )


def _train(folder: Path, recorder: Recorder, seen: Seen, start: int, checkpoint_at: int) -> None:
    for step in range(start, STEPS):
        if step % 3 == 0:
            recorder.open_window(0, step, rows_of([100, 101]))
        ids = list(range(step * BATCH, (step + 1) * BATCH))
        seen.taken = (step + 1) * BATCH
        recorder.see(ids)
        recorder.add(rows_of(ids), 0, step, 0.1)
        recorder.end_step()
        seen.sealed = max(seen.sealed, recorder.segments.manifest.n_rows)
        if step + 1 == checkpoint_at:
            described = read_description(folder)
            seen.pointer = save(
                folder, recorder, Processes(), described, {"step": step + 1}, keep=2
            )
            seen.sealed = max(seen.sealed, seen.taken)


def _abort(folder: Path, recorder: Recorder, reason: BaseException) -> None:
    """As `Valuation.abort`: keep what was captured; the error under way says more."""
    try:
        recorder.abort(STEPS)
        described = read_description(folder)
        finish_early(folder, described, type(reason).__name__)
    except (StoreError, OSError):
        pass  # it is said; opening the store tries again


def lived(folder: Path, seen: Seen, fault: Fault, **options: Any) -> Disk:
    """A life with a fault; afterwards the disk is repaired, and nobody is alive."""
    disk = Disk(folder, fault)
    with disk.mounted(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            live(folder, seen, **options)
        except (Killed, KeyboardInterrupt, StoreError, OSError) as error:
            seen.errors.append(error)
        if fault.kind.startswith("power") and disk.happened:
            disk.power_cut(names_kept="names" in fault.kind)
    return disk


def opened(folder: Path) -> InfluenceStore:
    """The store, whatever it has to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return InfluenceStore(folder)


def content(store: InfluenceStore) -> dict[str, np.ndarray]:
    """All that a run may not change."""
    records = store.records()
    windows = store.windows
    return {
        "ids": store.sample_ids,
        "codes": store.codes(),
        "sketches": store.sketches(),
        "query codes": store.query_codes(),
        "query codes at the end": store.query_codes(end=True),
        **{f"rows/{name}": records[name].to_numpy() for name in records},
        **{f"windows/{name}": windows[name].to_numpy() for name in windows},
    }


def assert_equal(store: InfluenceStore, whole: dict[str, np.ndarray]) -> None:
    assert store.attributes["complete"]
    for name, value in content(store).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


def assert_sound(folder: Path, seen: Seen, whole: dict[str, np.ndarray]) -> None:
    """It opens, or says why; no row that was reported is lost, none is doubled or changed."""
    try:
        store = opened(folder)
    except StoreError as error:
        if "no store at" in str(error) and not seen.sealed:
            return
        raise
    n = len(store)
    assert seen.sealed <= n <= max(seen.taken, seen.sealed), (seen, n)
    np.testing.assert_array_equal(store.sample_ids, whole["ids"][:n])
    np.testing.assert_array_equal(store.sketches(), whole["sketches"][:n])
    assert store.attributes["complete"] or not seen.finished
