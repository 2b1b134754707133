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
CODE, UPDATE = "features/gradient/code", "rows/features/update"
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


def updates(rows: int, width: int) -> Edit:
    """A second feature of the rows."""

    def edit(file: h5py.File) -> None:
        file[f"{UPDATE}/code"] = np.ones((rows, width), "f2")
        for name in ("norm", "length"):
            file[f"{UPDATE}/{name}"] = np.ones(rows, "f4")

    return edit


def long(table: str, rows: int) -> Edit:
    """All columns declare so many rows; none of them is stored."""

    def edit(file: h5py.File) -> None:
        def grow(_: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                item.resize(rows, axis=0)

        file[table].visititems(grow)

    return edit


def elsewhere(file: h5py.File) -> None:
    """A column whose values would be the bytes of another file."""
    del file["rows/loss"]
    file.create_dataset("rows/loss", (8,), "f4", external=[("/etc/hostname", 0, 32)])


def virtual(file: h5py.File) -> None:
    del file["rows/loss"]
    layout = h5py.VirtualLayout((8,), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (8,))
    file.create_virtual_dataset("rows/loss", layout)


def loop(file: h5py.File) -> None:
    del file["rows/loss"]
    file["rows/loss"] = file["rows"]


TEXT = h5py.string_dtype()

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

# What the layout of a store refuses.
LAYOUT: dict[str, tuple[Edit, str]] = {
    "a format that is a list": (attribute("format", [1, 2]), "no influence store"),
    "a version that is a list": (attribute("schema_version", [1, 1]), "schema version"),
    "no word on completeness": (no_attribute("complete"), "damaged|complete"),
    "settings that are no JSON": (attribute("config", "{"), "damaged|config"),
    "settings nested deeply": (attribute("config", "[" * 30_000), "damaged|config"),
    "no windows": (without("windows"), "windows"),
    "no layers": (without("layers"), "layers"),
    "no query texts": (without("query_text"), "query_text"),
    "query texts that are no JSON": (
        column("query_text", np.array(["{"] * 3, dtype=object), dtype=TEXT),
        "damaged",
    ),
    "query texts that are numbers": (column("query_text", np.zeros(3)), "query_text"),
    "a column that is a group": (loop, "loss"),
    "a column of text": (
        column("rows/step", np.array(["a"] * 8, dtype=object), dtype=TEXT),
        "step",
    ),
    "a column without dimensions": (column("rows/step", 5), "step"),
    "a column of two dimensions": (column("rows/loss", np.zeros((8, 2), "f4")), "loss"),
    "a column that is a broken link": (column("rows/loss", h5py.SoftLink("/no")), "loss"),
    "a column that is a link to itself": (
        column("rows/loss", h5py.SoftLink("/rows/loss")),
        "loss",
    ),
    "a column in another file": (
        column("rows/loss", h5py.ExternalLink("/etc/hostname", "/x")),
        "loss",
    ),
    "a column that is another file": (elsewhere, "loss"),
    "a column made of other files": (virtual, "loss"),
    "codes of one dimension": (column(f"rows/{CODE}", np.zeros(8, "f2")), "code"),
    "codes that are text": (
        column(f"rows/{CODE}", np.full((8, 8), "a", dtype=object), dtype=TEXT),
        "code",
    ),
    "codes of another width": (column(f"rows/{CODE}", np.zeros((8, 3), "f2")), "code"),
    "codes of width 0": (column(f"rows/{CODE}", np.zeros((8, 0), "f2")), "code"),
    "updates that are one array": (column(UPDATE, np.zeros(8)), "update"),
    "updates without norms": (column(f"{UPDATE}/code", np.zeros((8, 8), "f2")), "update/norm"),
    "updates without codes": (column(f"{UPDATE}/norm", np.zeros(8, "f4")), "update/code"),
    "updates of another width": (updates(8, 3), "code"),
    "updates of fewer rows": (updates(5, 8), "differ in length"),
    "updates in another file": (
        column(UPDATE, h5py.ExternalLink("/etc/hostname", "/x")),
        "damaged",
    ),
    "codes that are complex": (column(f"rows/{CODE}", np.zeros((8, 8), "c8")), "code"),
    "norms that are text": (
        column("rows/features/gradient/norm", np.array(["a"] * 8, dtype=object), dtype=TEXT),
        "norm",
    ),
    "no ids": (without("rows/sample_id"), "sample_id"),
    "ids that are fractions": (column("rows/sample_id", np.zeros(8)), "sample_id"),
    "ids in a table": (column("rows/sample_id", np.zeros((8, 2), "i8")), "sample_id"),
    "fewer ids than rows": (column("rows/sample_id", np.zeros(5, "i8")), "sample_id"),
    "ids that are no UTF-8": (
        column("rows/sample_id", np.array([b"\xff"] * 8, dtype=object), dtype=TEXT),
        "damaged",
    ),
    "ids that are records": (
        column("rows/sample_id", np.zeros(8, dtype=[("a", "i4")])),
        "sample_id",
    ),
    "10^12 rows": (long("rows", 10**12), "rows"),
    "10^9 rows": (long("rows", 10**9), "rows"),
    "10^12 queries": (long("queries", 10**12), "queries"),
    "10^12 windows": (long("windows", 10**12), "windows"),
    "a query twice": (column("queries/query", np.zeros(3, "i4")), "quer"),
}

HARMLESS: dict[str, Edit] = {
    "as it was written": lambda file: None,
    "a hostile attribute": attribute("hello", "</script>${oc.env:HOME}\r\n../../x"),
    "a group of somebody's own": column("mine/x", np.zeros(3)),
    "updates": updates(8, 8),
    "losses that are NaN": column("rows/loss", np.full(8, np.nan, "f4")),
}

CASES = [
    *(
        Case("store", name, make, read_all, words, where="given")
        for name, (make, words) in FILES.items()
    ),
    *(
        Case("store", name, edited(edit), read_all, words)
        for name, (edit, words) in (EDITS | LAYOUT).items()
    ),
    *(
        Case("store", name, edited(edit), read_all, None, accepted=lambda s: s.n_rows == 8)
        for name, edit in HARMLESS.items()
    ),
]
