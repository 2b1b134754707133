"""From sealed segments to ``influence.h5``: at the end of a run, or after a crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from influcoder_lightning.encoder.gradient_tower import (
    TOWERS,
    GradientTower,
    load_version,
    version_file,
)
from influcoder_lightning.store.description import Counts, Description
from influcoder_lightning.store.folder import RunFolder, read_description
from influcoder_lightning.store.manifest import Manifest
from influcoder_lightning.store.merge import (
    flat_sketches,
    manifests,
    merge,
    opened,
    read_windows,
)
from influcoder_lightning.store.schema import FILE_NAME, GRADIENT
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.valuation.recorder import encoded_block

FIT_ROWS = 512


def finish(
    folder: Path,
    description: Description,
    *,
    own: Manifest | None = None,
    complete: bool = True,
    note: str = "",
    cost: Callable[[], Mapping[str, float] | None] | None = None,
) -> Counts:
    """Merge what is sealed into ``influence.h5``; returns its counts, see `merge`.

    The caller holds the folder's lock, and may pass the manifest of the first process that it wrote
    itself: what that knows to be sound is not checked again. Rows that no tower version has encoded
    are encoded now, by the run's first version or, if it never came to one, by a tower fitted on
    these very rows.

    Raises:
        StoreError: a segment is missing or damaged.
    """
    parts = manifests(folder, description)
    if own is not None and own.segments == parts[0].segments:
        parts[0] = own
    windows = read_windows(folder, description, parts[0])
    if any(window["tower_version"] < 0 for window in windows):
        if not (folder / TOWERS / version_file(0)).exists():
            _fit_first_version(folder, description, parts)
        windows = [w | {"tower_version": max(w["tower_version"], 0)} for w in windows]
    towers: dict[int, GradientTower] = {}
    keep = description["store"]["keep_sketches"]

    def encode(sketch: np.ndarray, norm: np.ndarray, version: int) -> FeatureBlock:
        if version not in towers:
            towers.clear()
            towers[version] = load_version(folder / TOWERS, version)
        return encoded_block(towers[version], -1, torch.tensor(sketch), torch.tensor(norm), keep)

    return merge(
        folder, description, parts, windows, encode, complete=complete, note=note, cost=cost
    )


def finish_early(
    folder: Path,
    description: Description,
    note: str,
    cost: Callable[[], Mapping[str, float] | None] | None = None,
) -> None:
    """Merge what a run that ends early has sealed, see `finish`; the caller holds the lock.

    Where the run's store is there, all of it was merged before the trouble came; it stays, since
    segments beside it may be gone already.
    """
    if not (folder / FILE_NAME).exists():
        finish(folder, description, complete=False, note=note, cost=cost)


def recover(folder: Path) -> None:
    """Make ``influence.h5`` of a run that was killed, from what it had sealed.

    Raises:
        StoreError: the run is still going on, a segment is missing or damaged, or the folder
            cannot be written to.
    """
    run = RunFolder(folder)
    try:
        description = read_description(folder)
        bounds = description["bounds"]
        finish_early(
            folder,
            description,
            description.get("note")
            or "the run was killed; rows of its open segments are lost, for each process at most "
            f"{bounds['rows']} rows or {bounds['seconds']:g} seconds of work",
        )
    finally:
        run.release()


def _fit_first_version(folder: Path, description: Description, parts: list[Manifest]) -> None:
    store = description["store"]
    tower = GradientTower(store["sketch_dim"], store["code_dim"])
    for manifest in parts:
        for segment in manifest.segments:
            with opened(manifest.verified(segment)) as file:
                for (_, feature), sketches in flat_sketches(file, segment, description).items():
                    if feature != GRADIENT:  # the tower of a run that ended well has seen no other
                        continue
                    for start in range(0, len(sketches), FIT_ROWS):
                        block = np.array(sketches[start : start + FIT_ROWS])
                        tower.fit(torch.from_numpy(block))
    tower.freeze()
    tower.save(folder / TOWERS, 0)
