"""Malformed saved towers: the text head and the gradient tower."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus import (
    Case,
    canary_pickle,
    fifo_of,
    file_of,
    folder_of,
    link_of,
    safetensors,
    sparse_of,
)
from safetensors.numpy import load_file, save

from influcoder_lightning.encoder.gradient_tower import load_version
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.errors import StoreError

TEXTS = [{"prompt": f"what is {n}", "response": f"it is {n} of them"} for n in range(6)]
Files = dict[str, Any]  # name -> content, or a function that makes the file; None: no such file


@functools.cache
def head() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and settings of a valid text head."""
    codes = np.eye(6, 4, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        TextHead.fit(TEXTS, codes).save(Path(folder))
        arrays = load_file(Path(folder, "head.safetensors"))
        config = json.loads(Path(folder, "config.json").read_text())
    return arrays, config


def arrays(**changes: Any) -> Callable[[Path], bytes]:
    def content(folder: Path) -> bytes:
        changed = head()[0] | changes
        return save({k: v for k, v in changed.items() if v is not None})

    return content


def settings(**changes: Any) -> Callable[[Path], bytes]:
    return lambda folder: json.dumps(head()[1] | changes).encode()


def _declares(**tensor: Any) -> bytes:
    return safetensors(json.dumps({"basis": tensor, "weights": tensor}).encode(), body=bytes(64))


# Files of every safetensors kind; none of them holds what its header says.
HEADERS: dict[str, Any] = {
    "empty": b"",
    "three bytes": b"\0\0\0",
    "a pickle": canary_pickle,
    "a header of 10^12 bytes": safetensors(b"{}", declared=10**12),
    "a header of 2^64 - 1 bytes": safetensors(b"{}", declared=2**64 - 1),
    "a header that is no JSON": safetensors(b"{]"),
    "a header that is no UTF-8": safetensors(b'{"\xff": 1}'),
    "a header that is a list": safetensors(b"[1]"),
    "a header nested deeply": safetensors(b"[" * 50_000),
    "10^12 rows": _declares(dtype="F32", shape=[10**12, 8], data_offsets=[0, 64]),
    "a product beyond 64 bits": _declares(dtype="F32", shape=[2**40, 2**40], data_offsets=[0, 64]),
    "a negative shape": _declares(dtype="F32", shape=[-1, 8], data_offsets=[0, 64]),
    "offsets outside": _declares(dtype="F32", shape=[4, 4], data_offsets=[10**9, 10**9 + 64]),
    "offsets turned round": _declares(dtype="F32", shape=[4, 4], data_offsets=[64, 0]),
    "an unknown type": _declares(dtype="X9", shape=[4, 4], data_offsets=[0, 64]),
    "no tensor": safetensors(b"{}"),
    "zeros": bytes(1000),
}

HEAD: dict[str, Files] = {
    "weights are missing": {"head.safetensors": arrays(weights=None)},
    "weights of one dimension": {"head.safetensors": arrays(weights=np.zeros(6, "f4"))},
    "weights that are whole numbers": {"head.safetensors": arrays(weights=np.zeros((6, 4), "i4"))},
    "weights with NaN": {"head.safetensors": arrays(weights=np.full((6, 4), np.nan, "f4"))},
    "more weights than texts": {"head.safetensors": arrays(weights=np.zeros((9, 4), "f4"))},
    "idf of another shape": {"head.safetensors": arrays(idf=np.ones((7, 8), "f4"))},
    "idf with infinity": {"head.safetensors": arrays(idf=np.full((7, 2**16), np.inf, "f4"))},
    "idf is missing": {"head.safetensors": arrays(idf=None)},
    "knots of one row": {"head.safetensors": arrays(knots=np.zeros((1, 3), "f4"))},
    "no knots": {"head.safetensors": arrays(knots=np.zeros((2, 0), "f4"))},
    "knots that fall": {"head.safetensors": arrays(knots=np.array([[1, 0], [0, 1]], "f4"))},
    "indices beyond the buckets": {
        "head.safetensors": lambda folder: arrays(
            **{"token.indices": head()[0]["token.indices"] + 2**16}
        )(folder)
    },
    "indices below zero": {
        "head.safetensors": lambda folder: arrays(
            **{"token.indices": -1 - head()[0]["token.indices"]}
        )(folder)
    },
    "row pointers that fall": {
        "head.safetensors": lambda folder: arrays(
            **{"token.indptr": np.ascontiguousarray(head()[0]["token.indptr"][::-1])}
        )(folder)
    },
    "row pointers of 10^12": {
        "head.safetensors": lambda folder: arrays(
            **{"token.indptr": head()[0]["token.indptr"] * 10**12}
        )(folder)
    },
    "features with NaN": {
        "head.safetensors": lambda folder: arrays(
            **{"token.data": np.full_like(head()[0]["token.data"], np.nan)}
        )(folder)
    },
    "embeddings of other texts": {
        "head.safetensors": arrays(dense=np.ones((2, 3), "f4")),
        "config.json": settings(dense_dim=3),
    },
    "embeddings of another width": {
        "head.safetensors": arrays(dense=np.ones((6, 3), "f4")),
        "config.json": settings(dense_dim=5),
    },
    "embeddings that are missing": {"config.json": settings(dense_dim=5)},
    "no settings": {"config.json": None},
    "no weights file": {"head.safetensors": None},
    "settings that are empty": {"config.json": b""},
    "settings that are a list": {"config.json": b"[1]"},
    "settings nested deeply": {"config.json": b"[" * 100_000},
    "settings that are no UTF-8": {"config.json": b'{"kind": "\xff"}'},
    "settings that are a pickle": {"config.json": canary_pickle},
    "settings without a kind": {"config.json": b"{}"},
    "another kind": {"config.json": settings(kind="neural")},
    "another version": {"config.json": settings(version=99)},
    "a penalty of text": {"config.json": settings(penalty="x")},
    "a penalty of NaN": {"config.json": settings(penalty=float("nan"))},
    "a penalty that is a list": {"config.json": settings(penalty=[1])},
    "a tokenizer that is missing": {"config.json": settings(tokenizer=True)},
    "a tokenizer of rubbish": {
        "config.json": settings(tokenizer=True),
        "tokenizer/tokenizer.json": b"{]",
    },
    "a tokenizer that is a pickle": {
        "config.json": settings(tokenizer=True),
        "tokenizer/tokenizer.json": canary_pickle,
    },
    "a tokenizer that brings code": {
        "config.json": settings(tokenizer=True),
        "tokenizer/tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["t.T", null]}}',
        "tokenizer/t.py": b"open('canary', 'w')",
    },
    "a tokenizer that is a FIFO": {
        "config.json": settings(tokenizer=True),
        "tokenizer/tokenizer.json": fifo_of("tokenizer/tokenizer.json"),
    },
    "settings that are a FIFO": {"config.json": fifo_of("config.json")},
    "settings that are a folder": {"config.json": folder_of("config.json")},
    "settings of 10^12 bytes": {"config.json": sparse_of("config.json", 10**12)},
    "weights that are a FIFO": {"head.safetensors": fifo_of("head.safetensors")},
    "weights that are /dev/zero": {"head.safetensors": link_of("head.safetensors", "/dev/zero")},
    "weights of 10^8 zeros": {"head.safetensors": sparse_of("head.safetensors", 10**8)},
    **{f"weights: {name}": {"head.safetensors": data} for name, data in HEADERS.items()},
}


_VERSION = "version_00000.safetensors"
VERSIONS: dict[str, Any] = HEADERS | {
    "a basis of one dimension": save({"basis": np.zeros(8, "f2")}),
    "a basis with NaN": save({"basis": np.full((4, 8), np.nan, "f2")}),
    "a FIFO": fifo_of(_VERSION),
    "a link to /dev/zero": link_of(_VERSION, "/dev/zero"),
}


def folder_with(files: Files) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            takes_name = getattr(content, "__name__", "") == "make"
            if takes_name:
                content(folder)
            elif content is not None:
                file_of(name, content)(folder)
        return folder

    return make


def _version(content: Any) -> Callable[[Path], Path]:
    return folder_with({"version_00000.safetensors": content})


def _predict(folder: Path) -> Any:
    text_head = TextHead.load(folder)
    return text_head.confidence(text_head.predict(TEXTS))


_HEAD = {"config.json": settings(), "head.safetensors": arrays()}

CASES = [
    *(
        Case(
            "text head",
            name,
            folder_with(_HEAD | files),
            _predict,
            "text head",
            StoreError,
            where="given",
        )
        for name, files in HEAD.items()
    ),
    *(
        Case(
            "gradient tower",
            name,
            _version(data),
            lambda f: load_version(f, 0),
            "version 0",
            StoreError,
            where="version_00000.safetensors",
        )
        for name, data in VERSIONS.items()
    ),
]
