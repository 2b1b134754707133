"""How long until the command answers, and what does importing the package add?

    OMP_NUM_THREADS=1 python benchmarks/startup.py

Medians over fresh processes, wall and CPU seconds: the whole of ``influcoder --help``; and imports,
timed inside a process that has imported already what its user has. Aims: ``--help`` within 2 s,
``import influcoder_lightning`` within 0.5 s of what ``import torch`` takes. Writes
``benchmarks/results/startup.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import report

TRAINER = "import torch, lightning, peft, transformers"
# A user's own training script has made these by the time it comes to the callback.
TRAINING = f"""{TRAINER}
from lightning.pytorch import LightningModule, Trainer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer"""
IMPORTS = {
    "import torch": ("", "import torch"),
    "import influcoder_lightning": ("", "import influcoder_lightning"),
    "import influcoder_lightning, after torch": ("import torch", "import influcoder_lightning"),
    "InfluenceStore": ("", "from influcoder_lightning import InfluenceStore"),
    "InfluenceCallback, after import torch, lightning, peft, transformers": (
        TRAINER,
        "from influcoder_lightning import InfluenceCallback",
    ),
    "InfluenceCallback, after the imports of a training script": (
        TRAINING,
        "from influcoder_lightning import InfluenceCallback",
    ),
}
TIMED = """import json
{before}
from time import perf_counter, process_time
wall, cpu = perf_counter(), process_time()
{statement}
print(json.dumps({{"seconds": perf_counter() - wall, "cpu_seconds": process_time() - cpu}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "startup.json")
    options = parser.parse_args()
    measured: dict[str, list[dict[str, float]]] = {}
    for turn in range(options.rounds + 1):
        costs = {"influcoder --help": whole(["-m", "influcoder_lightning.cli", "--help"])}
        for name, (before, statement) in IMPORTS.items():
            output = run(["-c", TIMED.format(before=before, statement=statement)])
            costs[name] = json.loads(output.splitlines()[-1])
        if turn:  # the first round only brings the files into memory
            for name, cost in costs.items():
                measured.setdefault(name, []).append(cost)
    result: dict[str, Any] = {
        name: {key: median(cost[key] for cost in rounds) for key in rounds[0]}
        for name, rounds in measured.items()
    }
    for name, cost in result.items():
        print(f"{name:72s} {cost['seconds']:6.2f} s wall {cost['cpu_seconds']:6.2f} s CPU")
    passed = {
        "help": result["influcoder --help"]["cpu_seconds"] <= 2,
        "import": result["import influcoder_lightning, after torch"]["cpu_seconds"] <= 0.5,
    }
    result = {"medians": result, "rounds": options.rounds, "passed": passed, "all": measured}
    report.write(options.out, result | {"environment": report.environment()})


def run(arguments: Sequence[str]) -> str:
    """What a fresh Python prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def whole(arguments: Sequence[str]) -> dict[str, float]:
    """Seconds of a whole process, its start included."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    run(arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": perf_counter() - wall, "cpu_seconds": cpu}


if __name__ == "__main__":
    main()
