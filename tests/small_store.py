"""A store of a few rows with a bit of everything in it."""

from __future__ import annotations

import json
import zlib

import numpy as np

from influcoder_lightning import InfluenceStore
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.writer import StoreWriter

WIDTH, SKETCH = 8, 16


def unit_codes(n, seed, width=WIDTH):
    codes = np.random.default_rng(seed).normal(size=(n, width))
    return (codes / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float16)


def write(path, ids, code_dtype="float16", queries=("q ü", "q2")):
    """Write ``influence.h5`` at ``path``; returns the codes and the queries' codes."""
    random = np.random.default_rng(0)
    n, m = len(ids), len(queries)

    def block(n, seed):
        sketch = random.normal(size=(n, SKETCH)).astype("f4")
        return FeatureBlock(np.ones(n, "f4"), unit_codes(n, seed), np.ones(n, "f4"), sketch)

    columns = {"window": 0, "epoch": 0, "step": np.arange(n), "n_tokens": 3, "tower_version": 0}
    columns |= {"loss": random.normal(size=n), "learning_rate": 0.1, "weight": 0.5}
    asked = {"query": np.arange(m), "window": 0, "at_end": 0, "n_tokens": 3, "tower_version": 0}
    settings = {"code_dim": WIDTH, "sketch_dim": SKETCH, "keep_sketches": True}
    layers = [("a.lora_A", 2, 4, 0), ("a.lora_B", 4, 2, 8)]
    attributes = {"config": {"mode": "frozen"}, "lora": {"r": 8}, "versions": {"torch": "2"}}
    with StoreWriter.create(
        path, **settings, code_dtype=code_dtype, layers=layers, attributes=attributes
    ) as writer:
        writer.append("rows", list(ids), columns, block(n, 1))
        writer.append("queries", list(queries), asked | {"loss": 0.1}, block(m, 2))
        writer.append_query_texts([{"prompt": "?", "response": name} for name in queries])
        writer.append_window(
            window=0, epoch=0, start_step=0, end_step=n, tower_version=0, drift=0.9, n_rows=n
        )
        writer.close(complete=True)
    return unit_codes(n, 1), unit_codes(m, 2)


def everything(path):
    """All that can be read of a store, to be compared."""
    store = InfluenceStore(path)
    frames = (store.records(), store.query_records(), store.windows, store.layers)
    return [
        store.attributes,
        store.query_texts(),
        [frame.astype(str).to_numpy().tolist() for frame in frames],
        [a.tolist() for a in (store.codes(), store.sketches(), store.query_codes())],
        store.query_sketches().tolist(),
    ]


def sealed_line(values):
    """A line of a manifest with these values, and the checksum that goes with them."""
    body = json.dumps({name: value for name, value in values.items() if name != "checksum"})[:-1]
    return f'{body}, "checksum": "{zlib.crc32(body.encode()):08x}"}}\n'.encode()
