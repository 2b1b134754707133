"""What do threads cost a small comparison, on an idle machine and beside other work?

    python benchmarks/threads.py

Runs the quickstart once, then ``recipe=compare`` from it: as it is by default (threads measured,
arms side by side), with all threads and with one, one arm after the other; first alone, then beside
a process for each core that multiplies matrices. Prints seconds of the whole command and of the
retraining, and their ratio to one thread; writes ``benchmarks/results/threads.json``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import report

WAYS = {
    "default": [],
    "measured threads, one arm at a time": ["parallel.jobs=1"],
    "one thread": ["parallel.jobs=1", "parallel.threads=1"],
    "all threads": ["parallel.jobs=1", f"parallel.threads={os.cpu_count()}"],
}
BUSY = "import numpy as np\na = np.ones((400, 400))\nwhile True: a @ a"
_CLEAN = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "threads.json")
    options = parser.parse_args()
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first"
        _command(["recipe=quickstart", f"hydra.run.dir={first}", "retrain.steps=1", "seeds=[0]"])
        for busy in (False, True):
            with _other_work(busy):
                for name, keys in WAYS.items():
                    rounds = [_compare(first, Path(folder), keys) for _ in range(options.rounds)]
                    best = {key: min(one[key] for one in rounds) for key in rounds[0]}
                    measured.append({"busy": busy, "way": name, **best})
                    print(f"busy={busy!s:<5} {name:<36} {best}", flush=True)
    report.write(options.out, {"rounds": options.rounds, "ways": measured})


def _compare(first: Path, folder: Path, keys: list[str]) -> dict[str, float]:
    out = Path(tempfile.mkdtemp(dir=folder))
    begun = perf_counter()
    # As the quickstart trains, four arms of three seeds.
    fixed = ["recipe=compare", f"from={first}", f"hydra.run.dir={out}", "retrain.steps=80"]
    said = _command([*fixed, "seeds=[0,1,2]", *keys])
    seconds = perf_counter() - begun
    found = re.search(r"^retraining: .* \((?:(\d+) min )?([\d.]+) s\)$", said, re.MULTILINE)
    assert found is not None, said
    retraining = 60.0 * float(found[1] or 0) + float(found[2])
    return {"seconds": round(seconds, 1), "retraining_seconds": round(retraining, 1)}


@contextmanager
def _other_work(busy: bool) -> Iterator[None]:
    count = (os.cpu_count() or 1) if busy else 0
    environment = _CLEAN | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    others = [subprocess.Popen([sys.executable, "-c", BUSY], env=environment) for _ in range(count)]
    sleep(1.0 * busy)
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _command(keys: list[str]) -> str:
    start = "from influcoder_lightning.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, *keys], env=_CLEAN, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
