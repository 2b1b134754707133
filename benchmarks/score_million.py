"""A million new rows, scored from their text: speed, memory, several processes, a kill -9.

    OMP_NUM_THREADS=1 python benchmarks/score_million.py --data DATA --model MODEL --work WORK

DATA is that of real_chain.py. One valuation run over real rows makes the text tower; the rows to
score are the real ones with words left out and a number added, so that no two are alike. Each
measurement is the command, in processes of its own, whose peaks of resident memory are watched; CPU
seconds are those of all of them. The largest pool is also scored by two processes that are killed
in the middle and go on; its scores are held against `rank("encoder")` of the first rows in memory,
and that against itself with other blocks. With the same WORK an interrupted benchmark goes on.
Writes ``benchmarks/results/score_million.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import report

from influcoder_lightning import InfluenceStore, Ranking, load_rows, write_jsonl
from influcoder_lightning.data.rows import unread_rows

SOURCES = ("alpaca_gpt4", "gsm8k", "bbh")
N_POOL, N_QUERY, N_CHECKED, K = 1000, 30, 2000, 1000
COMMAND = (sys.executable, "-m", "influcoder_lightning.cli")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=report.RESULTS / "score_million.json")
    options = parser.parse_args()
    work = options.work
    rows = [row for name in SOURCES for row in load_rows(options.data / f"{name}.jsonl")]
    random.Random(0).shuffle(rows)
    if not (work / "valued" / "report.md").exists():
        value(rows, options.model, work)
    runs = []
    for n_rows in options.rows:
        pool = work / f"pool-{n_rows}.jsonl"
        if not pool.exists():
            part = pool.with_suffix(".part")
            write_jsonl(varied(rows[N_POOL:], n_rows), part)
            os.replace(part, pool)
        for processes in options.processes:
            name = f"{n_rows}-{processes}"
            compute = partial(score, pool, n_rows, processes, work / name, work / "valued")
            runs.append(report.cached(work / f"{name}.json", compute))
            print(json.dumps(runs[-1]), flush=True)
    largest, n_rows = work / f"pool-{options.rows[-1]}.jsonl", options.rows[-1]
    compute = partial(kill_and_resume, largest, n_rows, work / "killed", work / "valued")
    killed = report.cached(work / "killed.json", compute)
    print(json.dumps(killed), flush=True)
    seen = {"pool": N_POOL, "queries": N_QUERY, "bytes": largest.stat().st_size, "k": K}
    result = {"settings": seen, "runs": runs, "killed": killed, "seed": 0}
    report.write(options.out, result | {"environment": report.environment()})


def value(rows: list[dict[str, Any]], model: str, work: Path) -> None:
    """The run whose text tower scores."""
    queries = [row for row in rows[N_POOL:] if str(row["task"]).startswith("bbh/")][:N_QUERY]
    write_jsonl(rows[:N_POOL], work / "pool.jsonl")
    write_jsonl(queries, work / "query.jsonl")
    options = [f"model.name={model}", f"data.pool={work}/pool.jsonl", "train.max_length=192"]
    options += [f"data.query={work}/query.jsonl", f"hydra.run.dir={work}/valued"]
    subprocess.run([*COMMAND, "recipe=valuate", "train.lr=1e-3", *options], check=True)


def varied(rows: list[dict[str, Any]], n_rows: int) -> Any:
    """Real rows again and again, each time with some words left out and a number added."""
    rng = random.Random(1)
    for number in range(n_rows):
        row = rows[number % len(rows)]
        words = row["response"].split(" ")
        kept = [word for word in words if rng.random() > 0.1] or words
        prompt = f"{row['prompt']} ({number})"
        yield {"prompt": prompt, "response": " ".join(kept), "task": row["task"].split("/")[0]}


def arguments(pool: Path, processes: int, folder: Path, valued: Path) -> list[str]:
    """The command; evaluation rows of the valued run play no part."""
    options = [f"from={valued}", f"data.pool={pool}", f"score.processes={processes}"]
    return [*COMMAND, "recipe=score", *options, f"select.k={K}", f"hydra.run.dir={folder}"]


def score(pool: Path, n_rows: int, processes: int, folder: Path, valued: Path) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of one run of the command."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    command = subprocess.Popen(arguments(pool, processes, folder, valued), env=environment())
    peaks: dict[int, float] = {}
    while command.poll() is None:
        watch(command.pid, peaks)
        sleep(0.2)
    assert command.returncode == 0
    seconds, after = perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    parent = peaks.pop(command.pid)
    return {
        "rows": n_rows,
        "processes": processes,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rows_per_second": n_rows / seconds,
        "cpu_ms_per_row": 1000 * cpu / n_rows,
        "peak_rss_mib": parent,
        "peak_rss_mib_of_each_scorer": sorted(peaks.values())[-processes:] if peaks else [],
        "stages": stages(folder),
        "load": os.getloadavg()[0],
    }


def kill_and_resume(pool: Path, n_rows: int, folder: Path, valued: Path) -> dict[str, Any]:
    """Two processes, all killed when half of the rows are sealed; then the same command again."""
    command = arguments(pool, 2, folder, valued)
    begun = perf_counter()
    process = subprocess.Popen(command, env=environment(), start_new_session=True)
    while sealed(folder) < n_rows / 2:
        assert process.poll() is None
        sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed_at, kept = perf_counter() - begun, sealed(folder)
    begun = perf_counter()
    subprocess.run([*command, "resume=true"], env=environment(), check=True)
    resumed = perf_counter() - begun
    ranking = Ranking.load(folder / "ranking.csv")
    rows = [read() for read in islice(unread_rows(pool), N_CHECKED)]
    store = InfluenceStore(valued)
    expected = store.rank("encoder", data=rows)
    scale = np.abs(expected.scores).max()
    other_blocks = store.rank("encoder", data=rows, block_rows=64).scores - expected.scores
    places = {sample: place for place, sample in enumerate(ranking.sample_ids.tolist())}
    got = ranking.scores[[places[sample] for sample in expected.sample_ids.tolist()]]
    difference = np.abs(got - expected.scores).max()
    return {
        "rows": n_rows,
        "rows_ranked": len(ranking),
        "killed_after_seconds": killed_at,
        "rows_sealed_then": kept,
        "resumed_seconds": resumed,
        "largest_difference_by_largest_score": float(difference / scale),
        "of_the_method_with_other_blocks": float(np.abs(other_blocks).max() / scale),
        "rows_checked": len(rows),
        "selected": len(load_rows(folder / "selected.jsonl")),
        "stages": stages(folder),
    }


def environment() -> dict[str, str]:
    """One thread for each process."""
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def sealed(folder: Path) -> int:
    """Rows in sealed parts, the last one counted as full."""
    return 10_000 * len(list((folder / "scores").glob("part-*.jsonl")))


def stages(folder: Path) -> list[str]:
    """What the command said of its stages, with their seconds."""
    lines = (folder / "influcoder.log").read_text().splitlines()
    told = [line.partition("[INFO] - ")[2] for line in lines]
    return [line for line in told if re.search(r"\(.* (s|min|h)\)$|scored before", line)]


def watch(pid: int, peaks: dict[int, float]) -> None:
    """Note the peak of resident memory [MiB] of a process and of those that it started."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return
    if found := re.search(r"VmHWM:\s+(\d+)", status):
        peaks[pid] = int(found[1]) / 1024
    for child in children:
        watch(int(child), peaks)


if __name__ == "__main__":
    main()
