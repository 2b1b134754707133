"""Ours and other tools on the same work: per-sample LoRA gradients of a frozen model, on disk.

    python benchmarks/peers.py --environments FOLDER --install

A tiny random Llama (hidden 128, 4 layers, vocabulary 1,000, length 64), LoRA of rank 8 on all
linears (94,208 weights), float32, batches of 16, one thread. Each measurement is a process of its
own in the tool's own virtual environment (``FOLDER/bergson`` and so on, made by ``--install``), and
the plain forward and backward are timed in it too. Rounds alternate over the tools. What is missing
or fails is recorded as such. Writes ``benchmarks/results/peers.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from statistics import median
from typing import Any

import report

SCRIPTS = Path(__file__).parent / "rivals"
TORCH = "2.13.0"
# Tool -> its packages, and those that come with them but do not go with a CPU build of torch.
PACKAGES = {
    "bergson": (["bergson==2.5.1", "peft"], ["torchvision", "torchaudio"]),
    "dattri_llm": (["dattri-llm==0.1.0", "transformers", "peft"], []),
}
# Tool, cell, and how many rounds of it at most.
CELLS = [
    ("plain", "plain", 99),
    ("plain", "bare hooks", 99),
    ("ours", "exact", 99),
    ("dattri_llm", "exact", 99),
    ("bergson", "exact", 99),
    ("ours", "sketch 8192", 99),
    ("ours", "codes", 99),
    ("bergson", "projected 16x16 per module", 99),
    ("bergson", "projected 4096", 1),  # slow: ten times the others
]
# Ours, against what (the same process's plain pass where None), and the aim.
GOALS = [
    ("ours: exact", None, 1.10),
    ("ours: exact", "dattri_llm: exact", 0.85),
    ("ours: exact", "bergson: exact", 0.80),
    ("ours: sketch 8192", None, 1.15),
]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--install", action="store_true", help="make what is missing there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--only", nargs="*", help="tools, e.g. plain ours (default: all)")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "peers.json")
    options = parser.parse_args()
    if options.install:
        for tool in PACKAGES:
            install(options.environments / tool, tool)
    cells = [cell for cell in CELLS if not options.only or cell[0] in options.only]
    lines: dict[str, list[dict[str, Any]]] = {f"{tool}: {cell}": [] for tool, cell, _ in cells}
    for number in range(options.rounds):
        for tool, cell, most in cells:
            if number < most:
                line = measure(python_of(tool, options.environments), tool, cell, options.samples)
                lines[f"{tool}: {cell}"].append(line)
                shown = line["status"] if line["status"] != "ok" else f"{line['cpu_ms']:.2f} ms"
                print(f"round {number + 1}, {tool}: {cell}: {shown}", flush=True)
    result = {
        "clock": "CPU time per sample, one thread",
        "samples": options.samples,
        "rounds": options.rounds,
        "cells": {name: summary(rounds) for name, rounds in lines.items()},
        "goals": goals(lines),
        "environment": report.environment(),
    }
    report.write(options.out, result)
    for name, cell in result["cells"].items():
        print(f"{name:38s}", shown_cell(cell))
    for goal in result["goals"]:
        print(goal)


def python_of(tool: str, environments: Path) -> Path:
    """The interpreter a tool runs in; ours is the one that runs this."""
    return environments / tool / "bin" / "python" if tool in PACKAGES else Path(sys.executable)


def install(folder: Path, tool: str) -> None:
    """Make a tool's environment; a failure shows later, where the tool is called."""
    if folder.exists():
        return
    packages, unwanted = PACKAGES[tool]
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "install", f"torch=={TORCH}"])
    build = subprocess.run(
        [python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True
    ).stdout.strip()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraint:
        # Held to the very build (CPU or CUDA), which the packages would replace by a newer one.
        print(f"torch=={build}", file=constraint, flush=True)
        subprocess.run([*pip, "install", "-c", constraint.name, *packages])
    if unwanted:
        subprocess.run([*pip, "uninstall", "-y", *unwanted])


def measure(python: Path, tool: str, cell: str, samples: int) -> dict[str, Any]:
    """One cell once, in a process of its own; a failure is a status, not an exception."""
    if not python.exists():
        return {"status": "no environment"}
    with tempfile.TemporaryDirectory() as work:
        command = [str(python), str(SCRIPTS / f"run_{tool}.py"), cell]
        command += ["--samples", str(samples), "--work", work]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=1800,
                env={**os.environ, **ONE_THREAD, **QUIET},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"status": f"failed: {type(error).__name__}"}
    for line in reversed(done.stdout.splitlines()):
        if done.returncode == 0 and line.startswith("{"):
            return {"status": "ok", **json.loads(line)}
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"status": "failed: " + re.sub(r"/\S+", "PATH", last)[:200]}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most over the rounds that went well."""
    sound = [line for line in rounds if line["status"] == "ok"]
    if not sound:
        return {"status": rounds[0]["status"] if rounds else "not run"}
    spread = {
        "cpu_ms": [line["cpu_ms"] for line in sound],
        "wall_ms": [line["wall_ms"] for line in sound],
        "ratio_to_plain": [line["cpu_ms"] / line["plain_cpu_ms"] for line in sound],
    }
    fixed = ("version", "torch", "transformers", "mib_on_disk")
    errors = [name for name in sound[0] if name.startswith("max_")]
    return {
        "status": "ok" if len(sound) == len(rounds) else f"{len(sound)} of {len(rounds)} rounds ok",
        **{name: spread_of(values) for name, values in spread.items()},
        **{name: sound[0][name] for name in fixed},
        **{name: max(line[name] for line in sound) for name in errors},
    }


def goals(lines: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each goal's ratio, taken within rounds, between ratios to the process's own plain pass."""
    found = []
    for name, other, aim in GOALS:
        pairs = zip(lines.get(name, []), lines.get(other or name, []), strict=False)
        ratios = [
            a["cpu_ms"] / a["plain_cpu_ms"] / (b["cpu_ms"] / b["plain_cpu_ms"] if other else 1)
            for a, b in pairs
            if a["status"] == b["status"] == "ok"
        ]
        if ratios:
            spread = spread_of(ratios)
            reached = spread["median"] <= aim
            found.append({"of": name, "to": other or "plain", **spread, "aim": aim, "met": reached})
    return found


def spread_of(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def shown_cell(cell: dict[str, Any]) -> str:
    if "cpu_ms" not in cell:
        return cell["status"]
    ratio = cell["ratio_to_plain"]
    return (
        f"{cell['cpu_ms']['median']:7.2f} ms CPU/sample, {ratio['median']:.3f} of plain "
        f"({ratio['least']:.3f}-{ratio['most']:.3f}), {cell['mib_on_disk']:.1f} MiB"
    )


if __name__ == "__main__":
    main()
