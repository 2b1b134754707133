"""What do the store's checksums cost, and which flipped bits do they miss?

    OMP_NUM_THREADS=1 python benchmarks/store_integrity.py --work WORK

Cost: the same store with and without its checksums, of float16 and of int8 codes, ranked by
`cosine` and `fisher` in turn, `--rounds` times; CPU seconds, ratios within a round, medians. The
files are in the page cache, so that nothing hides what a checksum costs. Flips: one bit of a byte
in use (not zero) of a small store with text ids, drawn anew each time; all that can be read is then
read. Noticed: a `StoreError`; harmless: everything reads as before; missed: anything else.
Writes ``benchmarks/results/store_integrity.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
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
from influcoder_lightning.store import schema
from influcoder_lightning.store.codes import CODE_DTYPES, quantized
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.writer import StoreWriter

METHODS = ("cosine", "fisher")
DIM, QUERIES = 512, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_480)
    parser.add_argument("--rounds", type=int, default=15)
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


def build(path: Path, codes: np.ndarray, n_rows: int, code_dtype: str, as_text: bool) -> None:
    """A store of one window that repeats unit codes [n, d] float16 up to ``n_rows``."""

    def block(start: int, n: int) -> FeatureBlock:
        some = codes[np.arange(start, start + n) % len(codes)]
        return FeatureBlock(np.ones(n, np.float32), some, np.full(n, 0.9, np.float32))

    shared = {"window": 0, "n_tokens": 30, "loss": 1.0, "tower_version": 0}
    writer = StoreWriter.create(
        path, code_dim=codes.shape[1], code_dtype=code_dtype, sketch_dim=8192, keep_sketches=False,
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


def random_codes(n: int) -> np.ndarray:
    """Unit vectors [n, DIM] float16."""
    codes = np.random.default_rng(0).standard_normal((n, DIM), dtype=np.float32)
    return (codes / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float16)


def copied(path: Path, copy: Path, *, checksums: bool, code_dtype: str = "float16") -> None:
    """The same store without its checksums, or with float16 codes as int8."""
    code = f"rows/{schema.feature('code')}"
    with h5py.File(path) as file, h5py.File(copy, "w", libver=("v110", "v110")) as made:
        for name, value in file.attrs.items():
            made.attrs[name] = value

        def take(name: str, node: Any) -> None:
            if isinstance(node, h5py.Group):
                made.require_group(name)
                return
            values = node[:]
            if name == code and code_dtype == "int8":
                values = quantized(values)
            made.create_dataset(
                name, data=values, chunks=node.chunks, maxshape=node.maxshape, fletcher32=checksums
            )

        file.visititems(take)


def costs(folder: Path, n_rows: int, rounds: int) -> list[dict[str, Any]]:
    """How much longer each ranking takes with checksums, for each kind of codes."""
    paths, cells = {}, []
    for dtype in CODE_DTYPES:
        with_them, without = (folder / f"{dtype}_{word}.h5" for word in ("with", "without"))
        build(with_them, random_codes(min(n_rows, 65_536)), n_rows, dtype, as_text=False)
        copied(with_them, without, checksums=False)
        paths |= {f"{dtype} with": with_them, f"{dtype} without": without}
    seconds = seconds_in_turn(paths, METHODS, rounds)
    for dtype, method in product(CODE_DTYPES, METHODS):
        both = (seconds[f"{dtype} {word}", method] for word in ("with", "without"))
        cells.append({"code_dtype": dtype, "method": method} | ratio(*both))
    return cells


def seconds_in_turn(
    paths: Mapping[str, Path], methods: Sequence[str], rounds: int
) -> dict[tuple[str, str], list[float]]:
    """CPU seconds of ranking each store by each method, in each round."""
    seconds: dict[tuple[str, str], list[float]] = {both: [] for both in product(paths, methods)}
    for number in range(rounds + 1):
        order = list(seconds) if number % 2 else list(seconds)[::-1]  # no store is always first
        for name, method in order:
            begun = process_time()
            InfluenceStore(paths[name]).rank(method)
            if number:  # the first round warms up
                seconds[name, method].append(process_time() - begun)
    return seconds


def ratio(some: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """Medians of both, and of their ratio within a round, with its quartiles."""
    ratios = np.divide(some, others)
    low, middle, high = np.percentile(ratios, (25, 50, 75)).tolist()
    medians = [median(some), median(others)]
    return {"cpu_seconds": medians, "ratio": middle, "quartiles": [low, high]}


def flips(folder: Path, n_flips: int) -> dict[str, int]:
    """How many flips of used bytes were tried, noticed, harmless, missed."""
    path = folder / "flipped.h5"
    build(path, random_codes(40), 40, "int8", as_text=True)
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
