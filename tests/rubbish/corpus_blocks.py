"""Malformed leftovers of an interrupted run, which the same command would go on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from corpus import Case, canary_pickle, sparse_of
from corpus_scores import npy, object_array, shaped
from corpus_towers import Files, folder_with

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.recipes.fidelity import _finished as finished_part
from influcoder_lightning.recipes.icp import probe
from influcoder_lightning.run.finished_parts import read_part

SETTINGS = {"model": "m", "pool": "p"}
BLOCK = "000000000.npy"

BLOCKS: dict[str, Any] = {
    "empty": b"",
    "a pickle": canary_pickle,
    "objects": object_array,
    "10^12 rows": shaped("(1000000000000, 3)"),
    "cut off": npy(np.zeros((2, 3)))[:-8],
    "another number of samples": npy(np.zeros((5, 3))),
    "another number of queries": npy(np.zeros((2, 4))),
    "one dimension": npy(np.zeros(6)),
    "text": npy(np.full((2, 3), "a")),
    "whole numbers": npy(np.zeros((2, 3), dtype=np.int64)),
}
SETTINGS_FILES: dict[str, Any] = {
    "empty": b"",
    "a list": b"[1]",
    "nested deeply": b"[" * 100_000,
    "no UTF-8": b'{"model": "\xff"}',
    "of another run": json.dumps(SETTINGS | {"pool": "q"}).encode(),
    "10^12 bytes": sparse_of("settings.json", 10**12),
}
PARTS: dict[str, Any] = {
    "empty": b"",
    "a list": b"[1]",
    "a number": b"3",
    "without settings": b"{}",
    "nested deeply": b"[" * 100_000,
    "no UTF-8": b'{"settings": "\xff"}',
    "a pickle": canary_pickle,
    "of another run": b'{"settings": {"pool": "q"}}',
    "10^12 bytes": sparse_of("part.json", 10**12),
}
LOOP_PARTS = PARTS | {
    "without content": b'{"settings": {"model": "m", "pool": "p"}}',
    "with a list": b'{"settings": {"model": "m", "pool": "p"}, "content": [1]}',
    "with a number": b'{"settings": {"model": "m", "pool": "p"}, "content": 1}',
    "without a key": b'{"settings": {"model": "m", "pool": "p"}, "content": {"kept": []}}',
    "of no settings": b'{"settings": 3, "content": {"kept": [], "query_loss": 1}}',
}


def _blocks(files: Files) -> Callable[[Path], Path]:
    return folder_with({"settings.json": json.dumps(SETTINGS).encode()} | files)


def _probe(folder: Path) -> Any:
    prompts = SimpleNamespace(queries=[1, 2, 3], demonstration=lambda row: None)
    prober: Any = SimpleNamespace(prompts=prompts, one_shot=lambda row: np.zeros(3))
    return probe(prober, [{}, {}], folder, SETTINGS)


def _part(folder: Path) -> Any:
    return finished_part(folder / "part.json", SETTINGS)


def _loop_part(folder: Path) -> Any:
    return read_part(folder / "part.json", SETTINGS, ("kept", "query_loss"))


CASES = [
    *(
        Case(
            "icp block",
            name,
            _blocks({BLOCK: content}),
            _probe,
            "is damaged",
            ConfigError,
            where=BLOCK,
        )
        for name, content in BLOCKS.items()
    ),
    *(
        Case(
            "icp settings",
            name,
            _blocks({"settings.json": content}),
            _probe,
            "is damaged|with another pool",
            ConfigError,
            where="given",
        )
        for name, content in SETTINGS_FILES.items()
    ),
    *(
        Case(
            "fidelity part",
            name,
            folder_with({"part.json": content}),
            _part,
            "is damaged|other settings",
            ConfigError,
            where="part.json",
        )
        for name, content in PARTS.items()
    ),
    *(
        Case(
            "loop part",
            name,
            folder_with({"part.json": content}),
            _loop_part,
            "is damaged|other settings",
            ConfigError,
            where="part.json",
        )
        for name, content in LOOP_PARTS.items()
    ),
    Case(
        "icp block",
        "as it was written",
        _blocks({BLOCK: npy(np.ones((2, 3)))}),
        _probe,
        None,
        accepted=lambda found: found[1] == 2 and found[0].shape == (2, 3),
    ),
]
