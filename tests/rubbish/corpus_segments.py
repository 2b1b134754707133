"""Malformed leftovers of a killed run: its description, its manifest, its segments."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from corpus import Case, canary_pickle
from small_store import sealed_line

from influcoder_lightning import InfluenceStore
from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.folder import RunFolder
from influcoder_lightning.store.segments import FeatureBlock, SegmentWriter

WIDTH = 6


def killed(folder: Path) -> Path:
    """A run of five rows in one segment whose process was killed."""
    place = folder / "out" / "store"
    store: dict[str, Any] = {"code_dim": 3, "sketch_dim": WIDTH, "keep_sketches": False}
    store |= {"layers": [("a", 2, 3, 0)], "attributes": {"config": {"mode": "training"}}}
    run = RunFolder(place)
    run.start({"world_size": 1, "bounds": {"rows": 4, "seconds": 60.0}, "store": store})
    segments = SegmentWriter(place, 0, max_rows=99, max_seconds=99)
    sketch = np.random.default_rng(0).normal(size=(5, WIDTH)).astype("f4")
    columns = dict.fromkeys(("window", "epoch", "step", "n_tokens"), 0)
    columns |= {"loss": 0.5, "learning_rate": 0.1, "tower_version": -1}
    segments.see(list(range(5)))
    block = FeatureBlock(norm=np.ones(5, "f4"), sketch=sketch)
    segments.append("rows", list(range(5)), columns, block)
    window = {"window": 0, "epoch": 0, "start_step": 0, "end_step": -1, "n_rows": 0}
    segments.put_window(window | {"tower_version": -1, "drift": 0.0})
    segments.seal()
    run.release()
    return place


def run_file(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        place = killed(folder)
        path = place / "segments" / "run.json"
        description = json.loads(path.read_text())
        changed = change(description)
        text = changed.encode() if isinstance(changed, str) else sealed_line(description)
        path.write_bytes(text)
        return place

    return make


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        place = killed(folder)
        path = place / "segments" / "rank_00000" / "manifest.jsonl"
        head, line = path.read_bytes().splitlines(keepends=True)
        values = json.loads(line)
        changed = change(values)
        path.write_bytes(head + (changed if isinstance(changed, bytes) else sealed_line(values)))
        return place

    return make


def relist(segment: Path, **values: str) -> None:
    """The only segment's line of the manifest, with other values."""
    path = segment.with_name("manifest.jsonl")
    head, line = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + sealed_line(json.loads(line) | values))


def segment(edit: Callable[[h5py.File], Any], *, bytes_of: Any = None) -> Callable[[Path], Path]:
    """A segment of another content, with the checksum that goes with it."""

    def make(folder: Path) -> Path:
        place = killed(folder)
        path = place / "segments" / "rank_00000" / "00000000.h5"
        if bytes_of is not None:
            path.write_bytes(bytes_of(folder) if callable(bytes_of) else bytes_of)
        else:
            with h5py.File(path, "r+") as file:
                edit(file)
        relist(path, crc32=f"{zlib.crc32(path.read_bytes()):08x}")
        return place

    return make


def flat(edit: Callable[[Path], Any], *, missing: bool = False) -> Callable[[Path], Path]:
    """Sketches of another content, with the checksum that goes with it."""

    def make(folder: Path) -> Path:
        place = killed(folder)
        path = place / "segments" / "rank_00000" / "00000000.f4"
        edit(path)
        checksum = "0" * 8 if missing else f"{zlib.crc32(path.read_bytes()):08x}"
        relist(path, flat_crc32=checksum)
        return place

    return make


def moved_away(path: Path) -> None:
    path.symlink_to(path.rename(path.parents[3] / "elsewhere"))


def column(name: str, **options: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return edit


def link(name: str) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = h5py.ExternalLink("/etc/hostname", "x")

    return edit


def linked(name: str) -> Callable[[Path], Path]:
    """A part of the folder that leads out of it."""

    def make(folder: Path) -> Path:
        place = killed(folder)
        outside = folder / "elsewhere"
        target = place / name
        if target.is_dir():
            target.rename(outside)
        elif target.exists():
            os.replace(target, outside)
        else:
            outside.mkdir()
            target.parent.mkdir(exist_ok=True)
        target.symlink_to(outside)
        return place

    return make


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            description = description[parent]
        description[last] = value

    return change


RUN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty": lambda _: "",
    "nested deeply": lambda _: "[" * 30_000,
    "a list": lambda _: "[1, 2]",
    "10^9 processes": changed("world_size", 10**9),
    "minus one process": changed("world_size", -1),
    "processes in words": changed("world_size", "two"),
    "true processes": changed("world_size", True),
    "a tower of 6 x 10^9 numbers": changed("store.code_dim", 2**30),
    "no width": changed("store.sketch_dim", None),
    "updates in words": changed("store.updates", "yes"),
    "layers in words": changed("store.layers", "all"),
    "attributes that are a list": changed("store.attributes", []),
    "bounds of text": changed("bounds", "wide"),
    "a base that is not described": changed("base_rows", [1]),
    "no store": lambda d: d.pop("store") and None,
}
MANIFEST: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no JSON": (lambda _: b"{{{\n", "line 2"),
    "a number": (lambda _: b"7\n", "line 2"),
    "a changed line": (lambda v: sealed_line(v).replace(b'"rows": 5', b'"rows": 6'), "line 2"),
    "a doubled line": (lambda v: sealed_line(v) * 2, "line 3"),
    "a missing line": (changed("number", 2), "line 2"),
    "a line of another list": (changed("before", "0" * 8), "line 2"),
    "nested deeply": (lambda _: b"[" * 30_000 + b"\n", "line 2"),
    "a path upwards": (changed("file", "../../../../etc/hostname"), "line 2"),
    "an absolute path": (changed("file", "/etc/hostname"), "line 2"),
    "a name of dots": (changed("file", ".."), "line 2|missing"),
    "a segment that is not there": (changed("file", "00000009.h5"), "missing"),
    "rows below zero": (changed("rows", -5), "line 2"),
    "rows in words": (changed("rows", "five"), "line 2"),
    "more rows than there are": (changed("rows", 10**12), "5 rows merged"),
    "another checksum": (changed("crc32", "0" * 8), "damaged"),
    "another checksum of the sketches": (changed("flat_crc32", "0" * 8), "damaged"),
    "no checksum of the sketches": (changed("flat_crc32", ""), "no segment"),
    "a number for the checksum": (changed("flat_crc32", 7), "line 2"),
    "reasons with text": (changed("kept_out", {"why": "x"}), "line 2"),
    "a key too many": (changed("extra", 1), "line 2"),
}
SEGMENT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no updates where the run has them": (run_file(changed("store.updates", True)), "no segment"),
    "text": (segment(print, bytes_of=b"no segment"), "no segment of a store"),
    "a pickle": (segment(print, bytes_of=canary_pickle), "no segment of a store"),
    "no ids": (segment(lambda file: file["rows"].pop("sample_id")), "sample_id"),
    "10^12 rows declared": (
        segment(column("rows/loss", shape=(10**12,), dtype="f4", chunks=(1024,))),
        "declares",
    ),
    "a column in another file": (segment(link("rows/loss")), "is a link"),
    "values from outside": (
        segment(column("rows/loss", shape=(5,), dtype="f4", external=[("/etc/hostname", 0, 20)])),
        "another file",
    ),
    "sketches cut short": (flat(lambda path: path.write_bytes(b"x" * 24)), "24 bytes"),
    "sketches of another width": (flat(lambda path: path.write_bytes(b"x" * 400)), "400 bytes"),
    "sketches of no bytes": (flat(lambda path: path.write_bytes(b"")), "0 bytes"),
    "no sketches": (flat(lambda path: path.unlink(), missing=True), "missing"),
    "sketches elsewhere": (flat(moved_away), "missing"),
    "a window that nobody opened": (
        segment(column("rows/window", data=np.full(5, 77, "i4"))),
        "no segment|damaged",
    ),
}
LINKS = ["segments/lock", "segments/run.json", "encoder", "encoder/gradient", "segments/rank_00000"]

CASES = [
    *(
        Case("run.json", name, run_file(change), InfluenceStore, "does not describe", StoreError)
        for name, change in RUN.items()
    ),
    *(
        Case("manifest", name, manifest(change), InfluenceStore, words, StoreError)
        for name, (change, words) in MANIFEST.items()
    ),
    *(
        Case("segment", name, make, InfluenceStore, words, StoreError)
        for name, (make, words) in SEGMENT.items()
    ),
    *(
        Case("run folder", f"a link as {name}", linked(name), InfluenceStore, "link", StoreError)
        for name in LINKS
    ),
    Case(
        "run folder",
        "as a killed run leaves it",
        killed,
        InfluenceStore,
        None,
        accepted=lambda store: len(store) == 5,
    ),
]
