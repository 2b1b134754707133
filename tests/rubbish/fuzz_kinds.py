"""What the fuzzer damages: valid files of each kind, which are the corpus's own, and what reads."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import corpus_models
import corpus_rankings
import corpus_scores
import corpus_segments
import corpus_stores
import corpus_towers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from chat_templates import tokenizer_of
from conftest import tiny_llama
from safetensors.numpy import save

from influcoder_lightning import InfluenceStore, Ranking, load_rows, row_ids, tokenize_rows
from influcoder_lightning.data.turns import turns
from influcoder_lightning.encoder.gradient_tower import load_version
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.finetune.models import load_adapter
from influcoder_lightning.influence.score_files import load_scores
from influcoder_lightning.recipes import recipe_called
from influcoder_lightning.run.config import defaults
from influcoder_lightning.run.run_folder import absolute_paths, continue_run
from influcoder_lightning.run.saved_config import as_yaml, load_config
from influcoder_lightning.run.settings import resolved
from influcoder_lightning.store.chain import checked_line

Files = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """Files of a folder, of which one is damaged at a time, and what reads the folder.

    Attributes:
        files: makes the valid ones: path below the folder -> content.
        damaged: names that may be damaged.
        read: everything that the package does with such a folder.
    """

    files: Callable[[], Files]
    damaged: tuple[str, ...]
    read: Callable[[Path], Any]


def _one(name: str, content: Callable[[], bytes], read: Callable[[Path], Any]) -> Kind:
    return Kind(lambda: {name: content()}, (name,), lambda folder: read(folder / name))


def _config() -> bytes:
    cfg = resolved(defaults()).copy()
    cfg.data.pool, cfg.model.name, cfg.lds.scores = "/pool.jsonl", "/model", {"a": "/b"}
    return as_yaml({**cfg, "facts": {"pool": "x"}, "complete": True}).encode()


def _continued(folder: Path) -> Any:
    cfg = resolved(defaults()).copy()
    cfg["from"] = str(folder)
    load_config(folder)
    return absolute_paths(continue_run(cfg, recipe_called("valuate"), []))


@cache
def _killed() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        place = corpus_segments.killed(Path(folder))
        paths = [path for path in place.rglob("*") if path.is_file()]
        files = {str(path.relative_to(place)): path.read_bytes() for path in paths}
    description, _ = checked_line(files["segments/run.json"].strip())  # damage is to get behind it
    return files | {"segments/run.json": json.dumps(description).encode()}


def _recovered(folder: Path) -> Any:
    return len(InfluenceStore(folder).records())


def _npz() -> Files:
    parts = corpus_rankings._npz(**corpus_rankings.PARTS)
    return {"ranking.csv": corpus_rankings.GOOD, "ranking.per_query.npz": parts}


def _head() -> Files:
    none = Path()
    config = json.dumps(corpus_towers.head()[1]).encode()
    return {"config.json": config, "head.safetensors": corpus_towers.arrays()(none)}


def _version() -> Files:
    basis = {"basis": np.eye(8, 4, dtype="f4"), "weights": np.ones(4, "f4")}
    return {"version_00000.safetensors": save(basis)}


def _parquet() -> bytes:
    return corpus_scores.parquet([f"row-{i}" for i in range(500)], compression="zstd")(Path())


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(12.0).reshape(3, 4))
    return buffer.getvalue()


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def _parquet_rows() -> bytes:
    sink = io.BytesIO()
    rows = {"prompt": [f"p{i}" for i in range(200)], "response": ["r"] * 200, "id": range(200)}
    pq.write_table(pa.table(rows), sink, compression="zstd", row_group_size=64)
    return sink.getvalue()


def _chats(path: Path) -> Any:
    rows = load_rows(path)
    return [turns(rows, row_ids(rows)), tokenize_rows(rows, tokenizer_of("tools"), "chat", 64)]


def _chat(*messages: dict[str, Any], **beside: Any) -> bytes:
    return json.dumps({"messages": messages, **beside}).encode() + b"\n"


_CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CHATS = b"".join(
    [
        _chat({"role": "system", "content": "s"}, {"role": "user", "content": "u"},
              {"role": "assistant", "content": "a", "weight": 0},
              {"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "b"}),
        _chat({"role": "user", "content": "u"},
              {"role": "assistant", "content": None, "tool_calls": [_CALL]},
              {"role": "tool", "content": "1", "tool_call_id": "c"},
              {"role": "assistant", "content": "b"},
              tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    ]
)  # fmt: skip
ROWS = b'{"prompt": "p", "response": "r", "id": "a", "task": "t"}\n' * 20
SCORES = b'{"a": [1, 2.5], "b": null, "c": -1e3}'
KINDS: dict[str, Kind] = {
    "config.yaml": Kind(lambda: {"config.yaml": _config()}, ("config.yaml",), _continued),
    "manifest": Kind(
        _killed, ("segments/run.json", "segments/rank_00000/manifest.jsonl"), _recovered
    ),
    "segment": Kind(_killed, ("segments/rank_00000/00000000.h5",), _recovered),
    "store": _one("influence.h5", corpus_stores.store, corpus_stores.read_all),
    "gradient tower": Kind(
        _version, ("version_00000.safetensors",), lambda folder: load_version(folder, 0)
    ),
    "text head": Kind(
        _head,
        ("config.json", "head.safetensors"),
        lambda folder: TextHead.load(folder).predict(corpus_towers.TEXTS),
    ),
    "adapter": Kind(
        corpus_models.adapter,
        ("adapter_config.json", "adapter_model.safetensors"),
        lambda folder: load_adapter(tiny_llama(), folder),
    ),
    "ranking": Kind(
        _npz,
        ("ranking.csv", "ranking.per_query.npz"),
        lambda folder: Ranking.load(folder / "ranking.csv", per_query=True),
    ),
    "scores.csv": _one("s.csv", lambda: corpus_rankings.GOOD, load_scores),
    "scores.json": _one("s.json", lambda: SCORES, load_scores),
    "scores.npy": _one("s.npy", _npy, load_scores),
    "scores.pt": _one("s.pt", corpus_scores.pt, load_scores),
    "scores.parquet": _one("s.parquet", _parquet, load_scores),
    "rows.jsonl": _one("r.jsonl", lambda: ROWS, load_rows),
    "rows.jsonl.gz": _one("r.jsonl.gz", lambda: gzip.compress(ROWS, mtime=0), load_rows),
    "rows.jsonl.bz2": _one("r.jsonl.bz2", lambda: bz2.compress(ROWS), load_rows),
    "rows.jsonl.zst": _one("r.jsonl.zst", lambda: _zstd(ROWS), load_rows),
    "rows.json": _one("r.json", lambda: b"[" + b",".join(ROWS.split(b"\n")[:-1]) + b"]", load_rows),
    "rows.csv": _one("r.csv", lambda: b"question,answer\n" + b'"a ""b""",c\n' * 20, load_rows),
    "rows.parquet": _one("r.parquet", _parquet_rows, load_rows),
    "chats.jsonl": _one("r.jsonl", lambda: CHATS, _chats),
}


def write(files: Files, folder: Path) -> None:
    """Put the files into an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
