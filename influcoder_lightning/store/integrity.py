"""Reads all that a store keeps, so that every checksum of it is compared once."""

from __future__ import annotations

from pathlib import Path

import h5py
from safetensors import SafetensorError

from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.columns import opened_store, read_values
from influcoder_lightning.store.folder import BASE, SEGMENTS, read_description, run_file
from influcoder_lightning.store.merge import manifests
from influcoder_lightning.store.soundness import stored_dataset
from influcoder_lightning.store.store_file import StoreFile
from influcoder_lightning.store.text import is_text, read_text
from influcoder_lightning.tensors import read_tensors

_BLOCK_BYTES = 1 << 24


def read_store(path: Path) -> tuple[int, int]:
    """Read every data set of a store file, a stretch at a time; returns how many, and their bytes.

    Raises:
        StoreError: one is damaged (it is named), or this is no store.
    """
    store = StoreFile(path)  # layout and attributes
    n_sets = n_bytes = 0
    with opened_store(store.path) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in names:
            if isinstance(file.get(name), h5py.Dataset):
                n_bytes += _read(stored_dataset(file, name, store.path, file[name].ndim))
                n_sets += 1
        for name in ("rows/sample_id", "queries/sample_id", "query_text", "layers/name"):
            if name in file and is_text(file[name]):
                read_text(file[name])
    store.query_texts()
    return n_sets, n_bytes


def read_segments(folder: Path) -> tuple[int, int]:
    """Compare each segment that is beside a store with its manifest's checksum.

    Read is also what else a run that is not over has there: its description, its first rows.

    Returns:
        How many segments, and their rows.

    Raises:
        StoreError: one is missing or damaged, or a manifest or the description is.
    """
    place = folder / SEGMENTS
    if not run_file(folder).exists() and not list(place.glob("rank_*")):
        return 0, 0  # of a run that is over, only its lock
    description = read_description(folder)
    if description["base_rows"] is not None:
        read_store(place / BASE)
    n_segments = n_rows = 0
    for manifest in manifests(folder, description):
        for segment in manifest.segments:
            manifest.verified(segment)
            n_segments += 1
            n_rows += segment.rows
    return n_segments, n_rows


def read_adapters(folder: Path) -> int:
    """Read the adapters at the windows of a store; returns how many there were.

    Raises:
        StoreError: one is damaged.
    """
    weights = sorted((folder / "adapters").glob("*/*.safetensors"))
    for path in weights:
        try:
            read_tensors(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise StoreError(f"{path} is damaged: {error!s:.200}.") from error
    return len(weights)


def _read(data: h5py.Dataset) -> int:
    if not data.ndim:
        return int(read_values(data, ()).nbytes)
    row = max(1, data.nbytes // max(1, len(data)))
    step = max(1, _BLOCK_BYTES // row)
    for start in range(0, len(data), step):
        read_values(data, slice(start, start + step))
    return int(data.nbytes)
