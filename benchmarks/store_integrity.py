"""What do the store's checksums cost, and which flipped bits do they miss?

    OMP_NUM_THREADS=1 python benchmarks/store_integrity.py --work WORK

Cost: the same store with float16 codes, without its checksums, and with int8 codes, ranked by
`cosine` and `fisher` in turn, `--rounds` times; CPU seconds, medians. Flips: one bit of a byte in
use (not zero) of a small store with text ids, drawn anew each time; all that can be read is then
read. Noticed: a `StoreError`; harmless: everything reads as before; missed: anything else.
Writes ``benchmarks/results/store_integrity.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from random import Random
from statistics import median
from time import process_time
from typing import Any

import h5py
import numpy as np
import report

from influcoder_lightning import InfluenceStore
from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.writer import StoreWriter

METHODS = ("cosine", "fisher")
DIM, QUERIES = 512, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--work", type=Path, help="where the stores go")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "store_integrity.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="store_integrity_", dir=options.work) as folder:
        result = {"rows": options.rows, "dim": DIM, "queries": QUERIES, "rounds": options.rounds}
        result["flips"] = flips(Path(folder), options.flips)
        print(json.dumps(result["flips"]), flush=True)
        result["cost"] = costs(Path(folder), options.rows, options.rounds)
    report.write(options.out, result | {"environment": report.environment()})
    print(json.dumps(result["cost"], indent=1))


def build(path: Path, n_rows: int, code_dtype: str = "float16", as_text: bool = False) -> None:
    """A store of one window with random unit codes."""
    random = np.random.default_rng(0)
    codes = random.standard_normal((min(n_rows, 65_536), DIM), dtype=np.float32)
    codes = (codes / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float16)

    def block(start: int, n: int) -> FeatureBlock:
        some = codes[np.arange(start, start + n) % len(codes)]
        return FeatureBlock(np.ones(n, np.float32), some, np.full(n, 0.9, np.float32))

    shared = {"window": 0, "n_tokens": 30, "loss": 1.0, "tower_version": 0}
    writer = StoreWriter.create(
        path, code_dim=DIM, code_dtype=code_dtype, sketch_dim=8192, keep_sketches=False,
        layers=[("linear", 16, 16, 0)], attributes={"config": {"mode": "frozen"}},
    )  # fmt: skip
    with writer:
        for start in range(0, n_rows, 4096):
            n = min(4096, n_rows - start)
            columns = shared | {"epoch": 0, "step": start, "learning_rate": 1e-4, "weight": 1.0}
            ids = range(start, start + n)
            names = [f"sample {i}" for i in ids] if as_text else list(ids)
            writer.append("rows", names, columns, block(start, n))
        asked = {"query": np.arange(QUERIES), "at_end": 0}
        writer.append("queries", list(range(QUERIES)), shared | asked, block(7, QUERIES))
        writer.append_window(
            window=0, epoch=0, start_step=0, end_step=1, tower_version=0, drift=1.0, n_rows=n_rows
        )
        writer.close(complete=True)


def without_checksums(path: Path, copy: Path) -> None:
    """The same store, in the same chunks."""
    with h5py.File(path) as file, h5py.File(copy, "w", libver=("v110", "v110")) as plain:
        for name, value in file.attrs.items():
            plain.attrs[name] = value

        def take(name: str, node: Any) -> None:
            if isinstance(node, h5py.Group):
                plain.require_group(name)
                return
            made = plain.create_dataset(
                name, node.shape, node.dtype, chunks=node.chunks, maxshape=node.maxshape
            )
            for start in range(0, len(node), 65_536):
                made[start : start + 65_536] = node[start : start + 65_536]

        file.visititems(take)


def costs(folder: Path, n_rows: int, rounds: int) -> dict[str, Any]:
    """Bytes of a row, and CPU seconds of each ranking, of three stores in turn."""
    paths = {name: folder / f"{name}.h5" for name in ("float16", "no checksums", "int8")}
    build(paths["float16"], n_rows)
    build(paths["int8"], n_rows, "int8")
    without_checksums(paths["float16"], paths["no checksums"])
    seconds: dict[tuple[str, str], list[float]] = {(n, m): [] for n in paths for m in METHODS}
    for _ in range(rounds + 1):  # the first one warms up
        for name, method in seconds:
            begun = process_time()
            InfluenceStore(paths[name]).rank(method)
            seconds[name, method].append(process_time() - begun)
    found: dict[str, Any] = {}
    for name, path in paths.items():
        found[name] = {"bytes_per_row": path.stat().st_size / n_rows}
        found[name] |= {method: median(seconds[name, method][1:]) for method in METHODS}
    for method in METHODS:
        with_them, without = found["float16"][method], found["no checksums"][method]
        found[f"share of checksums, {method}"] = with_them / without - 1
        found[f"int8 over float16, {method}"] = found["int8"][method] / with_them
    return found


def flips(folder: Path, n_flips: int) -> dict[str, int]:
    """How many flips of used bytes were tried, noticed, harmless, missed."""
    path = folder / "flipped.h5"
    build(path, 40, "int8", as_text=True)
    sound, truth = path.read_bytes(), everything(path)
    used = [place for place, byte in enumerate(sound) if byte]
    found = {"tried": n_flips, "noticed": 0, "harmless": 0, "missed": 0}
    random = Random(0)
    for _ in range(n_flips):
        place = random.choice(used)
        damaged = bytearray(sound)
        damaged[place] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        try:
            found["harmless" if everything(path) == truth else "missed"] += 1
        except StoreError:
            found["noticed"] += 1
    return found


def everything(path: Path) -> str:
    """All that can be read of a store."""
    store = InfluenceStore(path)
    frames = (store.records(), store.query_records(), store.windows, store.layers)
    ranked = store.rank("cosine").scores.tolist()
    codes = (store.codes().tobytes(), store.query_codes().tobytes())
    tables = [frame.to_numpy().tolist() for frame in frames]
    return repr([store.attributes, store.query_texts(), tables, codes, ranked])


if __name__ == "__main__":
    main()
