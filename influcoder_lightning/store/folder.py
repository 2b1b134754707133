"""The folder of a store while a run writes to it: its description, its lock, its parts.

::

    influence.h5            what users open; written when the run ends, or on opening after a crash
    segments/run.json       what the run is; there from the first moment
    segments/rank_NNNNN/    manifest and sealed segments of each process
    segments/base.h5        rows of a run that was complete before it was resumed
    state/step_NNNNNNNN/    what a checkpoint needs to go on
    encoder/, adapters/     towers; the adapter at the start of each window
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from filelock import FileLock, Timeout

from influcoder_lightning.errors import StoreError
from influcoder_lightning.files import durable_folder, read_whole, remove_unfinished, write_durably
from influcoder_lightning.store import schema
from influcoder_lightning.store.chain import checked_line, sealed_line
from influcoder_lightning.store.description import Description

SEGMENTS = "segments"
RUN_FILE = "run.json"
BASE = "base.h5"
STATE = "state"
_LARGEST_TOWER, _MOST_PROCESSES = 2**30, 2**16
_OURS = (SEGMENTS, STATE, "encoder", "encoder/gradient", "adapters")


def rank_folder(folder: Path, rank: int) -> Path:
    """Where the segments of one process are, inside the folder of a store."""
    return folder / SEGMENTS / f"rank_{rank:05d}"


def run_file(folder: Path) -> Path:
    """Where the description of an unfinished run is."""
    return folder / SEGMENTS / RUN_FILE


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Raise ``StoreError`` if ``folder`` holds a store that must not be replaced."""
    if overwrite:
        return
    # os.path: a folder that may not be entered is for whoever opens it to report.
    if os.path.exists(folder / schema.FILE_NAME):
        raise StoreError(
            f"{folder} already holds a store ({schema.FILE_NAME}). Choose another folder, or pass "
            "`overwrite=True` to replace it."
        )
    if os.path.exists(run_file(folder)):
        raise StoreError(
            f"{folder} already holds a store that was not finished. Go on from a checkpoint "
            "(`trainer.fit(..., ckpt_path=...)`), keep what it has by opening it with "
            "`InfluenceStore`, choose another folder, or pass `overwrite=True` to replace it."
        )


class RunFolder:
    """Exclusive use of a store's folder by one run.

    Args:
        folder: of the store.
        parts: folders in it that will be written to; others may be links to those of another run.

    Raises:
        StoreError: another process writes to it, or it cannot be written to.
    """

    def __init__(self, folder: Path, parts: Sequence[str] = _OURS) -> None:
        self.folder, self._parts = folder, parts
        for name in (*parts, f"{SEGMENTS}/lock", f"{SEGMENTS}/{RUN_FILE}"):
            if os.path.islink(folder / name):
                raise StoreError(f"{folder / name} is a link: a run writes to its own folder only.")
        try:
            durable_folder(folder / SEGMENTS)
            self._lock = FileLock(folder / SEGMENTS / "lock")
            self._lock.acquire(timeout=0)
            self._remove_unfinished()
        except OSError as error:
            if not isinstance(error, Timeout):
                raise StoreError(
                    f"{folder} cannot be written to ({error}). Choose another folder; a store "
                    "whose run was killed opens from a copy in a folder that can be written to."
                ) from error
            raise StoreError(
                f"{folder} is being written by another process; wait until that run is over, or "
                "choose another folder."
            ) from error

    def start(self, description: Description) -> None:
        """Empty the folder of what an earlier run left, and describe the new one."""
        (self.folder / schema.FILE_NAME).unlink(missing_ok=True)
        run_file(self.folder).unlink(missing_ok=True)  # it describes what goes now
        for name in _OURS:  # only what this package writes
            for path in (self.folder / name).glob("*"):
                if path.name != "lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.describe({**description, "generation": uuid4().hex, "base_rows": None})

    def describe(self, description: Description) -> None:
        """Write ``run.json``."""
        write_durably(run_file(self.folder), [sealed_line(dict(description))])

    def release(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    def dissolve(self) -> None:
        """Remove ``segments/``: everything is in the store."""
        place = self.folder / SEGMENTS
        # First what would describe a run without its rows; last the lock.
        run_file(self.folder).unlink(missing_ok=True)
        for path in place.glob("*"):
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (place / "lock").unlink(missing_ok=True)
        self.release()
        with suppress(OSError):  # somebody else has begun to use it
            place.rmdir()

    def _remove_unfinished(self) -> None:
        """What processes that were killed had not finished; nobody writes to it any more."""
        for place in (".", *self._parts):
            remove_unfinished(self.folder / place)
        for pattern in (f"{STATE}/[0-9]*", f"{SEGMENTS}/rank_[0-9]*"):
            for inside in self.folder.glob(pattern):
                remove_unfinished(inside)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Use of the folder of a finished store by nobody else, see `RunFolder`."""
    run = RunFolder(folder, (SEGMENTS,))
    try:
        yield
    finally:
        if run_file(folder).exists():
            run.release()
        else:
            run.dissolve()


def read_description(folder: Path) -> Description:
    """``run.json`` of an unfinished run.

    Raises:
        StoreError: it is missing or damaged.
    """
    path = run_file(folder)
    try:
        content = read_whole(path)
        description = json.loads(content)
        if "checksum" in description:  # release 0.1 wrote none
            description, _ = checked_line(content.removesuffix(b"\n"))
        _check(description)
        return cast(Description, dict(description))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} does not describe a run ({error!s:.200}).") from error


def _check(description: dict[str, Any]) -> None:
    """Refuse values that no run writes, before anything is allocated by them."""
    store, bounds = description["store"], description["bounds"]
    sizes = [description["world_size"], store["code_dim"], store["sketch_dim"], bounds["rows"]]
    if not all(type(size) is int and 0 < size < 2**31 for size in sizes):
        raise ValueError(f"sizes {sizes}")
    if store["code_dim"] * store["sketch_dim"] > _LARGEST_TOWER or sizes[0] > _MOST_PROCESSES:
        raise ValueError(f"sizes {sizes} are beyond what a run can have")
    kinds: list[tuple[object, type | tuple[type, ...]]] = [
        (bounds["seconds"], (int, float)),
        (store["keep_sketches"], bool),
        (store.get("updates", False), bool),  # runs of the first releases do not say
        (store["layers"], list),
        (store["attributes"], dict),
        (description["base_rows"], (list, type(None))),
        (description["generation"], str),
    ]
    for value, kind in kinds:
        if not isinstance(value, kind):
            raise ValueError(f"{value!r:.60} is of another kind")
    for layer in store["layers"]:
        name, *sizes = layer
        if type(name) is not str or [type(size) for size in sizes] != [int] * 3:
            raise ValueError(f"{layer!r:.60} is no layer")
        if not all(0 <= size < 2**63 for size in sizes):
            raise ValueError(f"{layer!r:.60} is of no size")
    if description["base_rows"] is not None:
        names = ("base_parts", "base_windows", "base_queries", "base_counts")
        if any(name not in description for name in names):
            raise ValueError("it lacks what is known of its first rows")
