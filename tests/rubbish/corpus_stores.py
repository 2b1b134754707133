"""Malformed stores: ``influence.h5`` that is no HDF5, or HDF5 that is no store."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from conftest import loader, tiny_peft, tokens
from corpus import Case, canary_pickle, fifo_of, file_of, folder_of, link_of, sparse_of

from influcoder_lightning import InfluenceStore, extract_features

NAME = "influence.h5"
CODE = "features/gradient/code"
Edit = Callable[[h5py.File], Any]


@functools.cache
def store() -> bytes:
    """A valid store of eight samples and three queries."""
    with tempfile.TemporaryDirectory() as folder:
        extract_features(
            tiny_peft(),
            loader(tokens(8)),
            Path(folder, "store"),
            query_dataloader=loader(tokens(3, seed=1)),
            sketch_dim=64,
            code_dim=8,
        )
        return Path(folder, "store", NAME).read_bytes()


def read_all(path: Path) -> InfluenceStore:
    """Everything that a ranking or a report reads."""
    opened = InfluenceStore(path)
    assert len(opened.sample_ids) == len(opened.records()) == len(opened.codes()) == opened.n_rows
    assert len(opened.query_ids) == len(opened.query_codes()) == len(opened.query_records())
    assert repr(opened)
    assert [len(opened.windows), len(opened.layers)]
    opened.query_texts()
    opened.rank("cosine")
    return opened


def edited(edit: Edit) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = file_of(NAME, store())(folder)
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return make


def attribute(name: str, value: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        file.attrs[name] = value

    return edit


def no_attribute(name: str) -> Edit:
    return lambda file: file.attrs.__delitem__(name)


def without(name: str) -> Edit:
    return lambda file: file.__delitem__(name)


def column(name: str, value: Any, **options: Any) -> Edit:
    """Another dataset (or link) in the place of one."""

    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if isinstance(value, h5py.SoftLink | h5py.ExternalLink):
            file[name] = value
        else:
            file.create_dataset(name, data=value, **options)

    return edit


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder / NAME, "no store"),
    "empty": (file_of(NAME, b""), "no readable HDF5"),
    "a pickle": (file_of(NAME, canary_pickle), "no readable HDF5"),
    "magic only": (file_of(NAME, b"\x89HDF\r\n\x1a\n"), "no readable HDF5"),
    "zeros": (file_of(NAME, bytes(4096)), "no readable HDF5"),
    "a folder": (folder_of(NAME), "no store|no readable"),
    "a FIFO": (fifo_of(NAME), "no store|no readable"),
    "a link to /dev/zero": (link_of(NAME, "/dev/zero"), "no store|no readable"),
    "10^12 bytes of nothing": (sparse_of(NAME, 10**12), "no readable HDF5"),
    **{
        f"cut to {part} of 8": (
            lambda folder, part=part: file_of(NAME, store()[: len(store()) * part // 8])(folder),
            "no readable HDF5",
        )
        for part in range(1, 8)
    },
    "another HDF5 file": (
        lambda folder: edited(lambda file: file.attrs.clear())(folder),
        "no influence store",
    ),
}

EDITS: dict[str, tuple[Edit, str]] = {
    "no format": (no_attribute("format"), "no influence store"),
    "another format": (attribute("format", "other"), "no influence store"),
    "a format of 10,000 letters": (attribute("format", "x" * 10_000), "no influence store"),
    "no version": (no_attribute("schema_version"), "schema version"),
    "a version of text": (attribute("schema_version", "1; rm -rf /"), "schema version"),
    "a version to come": (attribute("schema_version", 10**6), "schema version"),
    "no rows": (without("rows"), "rows"),
    "rows that are one array": (column("rows", np.zeros(8)), "rows"),
    "no queries": (without("queries"), "queries"),
    "no loss": (without("rows/loss"), "loss"),
    "a column of fractions": (column("rows/window", np.full(8, 0.5)), "window"),
    "columns of different lengths": (column("rows/loss", np.zeros(5, "f4")), "differ in length"),
    "queries of a window that is not there": (
        column("queries/window", np.full(3, 99, "i4")),
        "window",
    ),
}

HARMLESS: dict[str, Edit] = {
    "as it was written": lambda file: None,
    "a hostile attribute": attribute("hello", "</script>${oc.env:HOME}\r\n../../x"),
    "a group of somebody's own": column("mine/x", np.zeros(3)),
    "losses that are NaN": column("rows/loss", np.full(8, np.nan, "f4")),
}

CASES = [
    *(
        Case("store", name, make, read_all, words, where="given")
        for name, (make, words) in FILES.items()
    ),
    *(Case("store", name, edited(edit), read_all, words) for name, (edit, words) in EDITS.items()),
    *(
        Case("store", name, edited(edit), read_all, None, accepted=lambda s: s.n_rows == 8)
        for name, edit in HARMLESS.items()
    ),
]
