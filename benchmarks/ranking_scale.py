"""Can a store of ten million rows be ranked in a gigabyte, and as fast as it can be read?

    OMP_NUM_THREADS=1 python benchmarks/ranking_scale.py --rows 10000000 --work WORK

Builds a store on disk (codes of 512 float16: 11 GB, removed afterwards), then runs, alternately and
each in a process of its own: our rankings with the best 1,000 taken; and two bare loops that read
the codes in blocks, widen them to float32 and multiply, with all queries (`bare`) or with one
vector (`bare_mean`, to which the mean over queries can be reduced), and neither normalise, add up
nor sort. Aims: `cosine` within 1 GiB of resident memory, and at least 0.7 of the speed of `bare`.
Writes ``benchmarks/results/ranking_scale.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import h5py
import numpy as np

from influcoder_lightning import InfluenceStore
from influcoder_lightning.store import schema
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.writer import StoreWriter

METHODS = ("cosine", "projected_cosine", "tracin")
BLOCK = 8192
Cost = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--top", type=int, default=1000)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1, help="rows of each sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["bare", "bare_mean", *METHODS])
    parser.add_argument("--work", type=Path, help="where the store goes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]), options.top)))
        return
    import report  # brings torch, which would count in the memory of the processes measured

    costs: dict[str, list[Cost]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory(prefix="ranking_scale_", dir=options.work) as folder:
        path = Path(folder) / schema.FILE_NAME
        begun = perf_counter()
        build(path, options)
        print(f"built in {perf_counter() - begun:.0f} s, {path.stat().st_size:,} bytes", flush=True)
        for _ in range(options.rounds):
            for way in options.ways:
                command = [sys.executable, __file__, "--top", str(options.top)]
                command += ["--measure", way, str(path)]
                output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                costs[way].append(json.loads(output.stdout))
                print(way, costs[way][-1], flush=True)
    names = ("rows", "dim", "queries", "top", "windows", "epochs", "rounds")
    result = {name: getattr(options, name) for name in names}
    result |= summary(costs) | {"all": costs, "environment": report.environment()}
    report.write(options.out or report.RESULTS / "ranking_scale.json", result)
    print(json.dumps(result["ways"], indent=1))


def build(path: Path, options: argparse.Namespace) -> None:
    """A store as a run writes it: shuffled samples, `epochs` times, with everything but text."""
    rng = np.random.default_rng(0)
    writer = StoreWriter.create(
        path,
        code_dim=options.dim,
        sketch_dim=8192,
        keep_sketches=False,
        layers=[("linear", 16, 16, 0)],
        attributes={"config": {}, "counts": {"written": options.rows}},
    )
    shared = {"n_tokens": 30, "loss": 1.0, "tower_version": 0}
    # Stretches of one pool of codes: drawing each anew would take minutes and change nothing.
    codes = rng.standard_normal((65_536, options.dim), dtype=np.float32)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    codes = codes.astype(np.float16)

    def feature(n: int) -> FeatureBlock:
        at = int(rng.integers(0, len(codes) - n))
        norm, length = rng.uniform(0.5, 2, n), rng.uniform(0.5, 1, n)
        return FeatureBlock(norm=norm, code=codes[at : at + n], length=length)

    n_samples = options.rows // options.epochs
    for epoch in range(options.epochs):
        ids = rng.permutation(n_samples)
        for start in range(0, n_samples, 4096):
            some = ids[start : start + 4096]
            row = epoch * n_samples + start
            step = np.arange(row, row + len(some))
            window = step * options.windows // (n_samples * options.epochs)
            columns = {"window": window, "epoch": epoch, "step": step, "learning_rate": 1e-4}
            writer.append("rows", some.tolist(), shared | columns, feature(len(some)))
    for window in range(options.windows):
        ids = np.arange(options.queries)
        columns = {"query": ids, "at_end": 0, "window": window}
        writer.append("queries", ids.tolist(), shared | columns, feature(options.queries))
        values = {"start_step": 0, "end_step": 1, "drift": 1.0, "n_rows": 1}
        writer.append_window(window=window, epoch=0, tower_version=0, **values)
    writer.close(complete=True)


def measure(way: str, path: Path, top: int) -> Cost:
    """Seconds of one way, and the peak of resident memory of this process since it began."""
    wall, cpu = perf_counter(), process_time()
    if way.startswith("bare"):
        bare(path, one_vector=way == "bare_mean")
    else:
        method, _, kept = way.partition("+")
        options: dict[str, Any] = {"per_query": True} if kept else {}
        InfluenceStore(path).rank(method, **options).top_k(top)
    cost = {"seconds": perf_counter() - wall, "cpu_seconds": process_time() - cpu}
    assert "torch" not in sys.modules
    status = Path("/proc/self/status").read_text()
    return cost | {"peak_rss_mib": int(status.split("VmHWM:")[1].split()[0]) / 1024}


def bare(path: Path, *, one_vector: bool) -> None:
    """Read, widen, multiply; nothing is kept."""
    with h5py.File(path) as file:
        codes = file[f"rows/{schema.feature('code')}"]
        windows = file["queries/window"][:]
        queries = file[f"queries/{schema.feature('code')}"][:][windows == 0].astype(np.float32)
        right = queries.mean(axis=0) if one_vector else queries.T
        for start in range(0, len(codes), BLOCK):
            codes[start : start + BLOCK].astype(np.float32) @ right


def summary(costs: dict[str, list[Cost]]) -> dict[str, Any]:
    """Medians over the rounds, and how fast each way is against the bare loops."""
    ways: dict[str, dict[str, float]] = {}
    for way, rounds in costs.items():
        ways[way] = {name: median(cost[name] for cost in rounds) for name in rounds[0]}
    for way, cost in ways.items():
        for loop in ("bare", "bare_mean"):
            if loop in ways and not way.startswith("bare"):
                for name in ("cpu_seconds", "seconds"):
                    cost[f"speed_of_{loop}_by_{name}"] = ways[loop][name] / cost[name]
    passed = {}
    if "cosine" in ways and "bare" in ways:
        passed["memory"] = ways["cosine"]["peak_rss_mib"] <= 1024
        passed["speed"] = ways["cosine"]["speed_of_bare_by_cpu_seconds"] >= 0.7
    return {"ways": ways, "passed": passed}


if __name__ == "__main__":
    main()
