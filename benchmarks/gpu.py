"""All cost benchmarks on one GPU, with one command.

    python benchmarks/gpu.py --text-encoder FOLDER
    python benchmarks/gpu.py --text-encoder FOLDER --only "capture 3b" --budget 540
    python benchmarks/gpu.py --text-encoder FOLDER --rehearse

Each cell is a process of its own, so that one that fails (out of memory, say) leaves a status and
the others go on. Cells that are done are not measured again: a command that was cut short is simply
repeated. ``--rehearse`` runs one shape's cells on the CPU, tiny, to see that all work; the figures
mean nothing. Writes ``benchmarks/results/gpu.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import report
import torch

SHAPES = ("0.5b", "1.5b", "3b")
LENGTHS = (512, 1024, 2048)
TOKENS = 8192  # of a batch


def cells(text_encoder: str, rehearse: bool) -> dict[str, list[str]]:
    """The command of each cell, by name, the dearest last."""
    device = ["--device", "cpu" if rehearse else "cuda"]
    device += ["--dtype", "float32" if rehearse else "bfloat16"]
    encoder = ["--text-encoder", text_encoder]
    found = {}
    for shape in ("tiny",) if rehearse else SHAPES:
        for length in LENGTHS:
            sizes = ["--batch", str(TOKENS // length), "--length", str(length), "--steps", "20"]
            if rehearse:
                sizes = ["--batch", "4", "--length", str(length // 32), "--steps", "10"]
            rounds = ["--rounds", "1" if rehearse else "3"]
            found[f"capture {shape}, {length} tokens"] = [
                *("capture_cost.py", "--shapes", shape, *encoder, *device, *sizes, *rounds)
            ]
        found[f"memory {shape}"] = [
            *("memory.py", "--shapes", shape, *device, "--rounds", "1"),
            *("--batch", "2" if rehearse else "8", "--length", "16" if rehearse else "1024"),
        ]
        found[f"text scoring {shape}"] = [
            *("text_scoring.py", "--shape", shape, *encoder, *device),
            *("--batch", "2" if rehearse else "16", "--batches", "2" if rehearse else "8"),
            *("--texts", "8" if rehearse else "2048", "--seen", "50" if rehearse else "2000"),
            *("--lengths", *(["32"] if rehearse else ["128", "256", "1024"])),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text-encoder", required=True, help="sentence-transformers folder")
    parser.add_argument("--only", nargs="+", default=[""], help="how the names of cells begin")
    parser.add_argument("--budget", type=float, default=540, help="begin no cell after so many s")
    parser.add_argument("--limit", type=float, default=300, help="seconds for a cell")
    parser.add_argument("--again", action="store_true", help="also cells that have a result")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, tiny")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not (options.rehearse or torch.cuda.is_available()):
        sys.exit("no CUDA device is there: gpu.py measures on one. Try --rehearse without.")
    out = options.out or report.RESULTS / ("gpu_rehearsal.json" if options.rehearse else "gpu.json")
    done = json.loads(out.read_text()) if out.exists() else {}
    begun, left = perf_counter(), []
    for name, command in cells(options.text_encoder, options.rehearse).items():
        chosen = name.startswith(tuple(options.only))
        if not chosen or (not options.again and done.get(name, {}).get("status") == "done"):
            continue
        room = options.budget - (perf_counter() - begun)
        if room <= 0:
            left.append(name)
            continue
        done[name] = run(command, min(options.limit, room + 30))
        report.write(out, done)
        print(f"{name}: {done[name]['status']}, {done[name]['seconds']:.0f} s", flush=True)
    if left:
        print(f"not begun, run the command again: {', '.join(left)}")
    failed = [name for name, cell in done.items() if cell["status"] != "done"]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def run(command: list[str], limit: float) -> dict[str, Any]:
    """A cell's status, seconds and result."""
    script, *arguments = command
    begun = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        call = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
        try:
            ended = subprocess.run(
                [*call, "--out", str(result)], capture_output=True, text=True, timeout=limit
            )
            status = "done" if ended.returncode == 0 else reason(ended.stderr)
        except subprocess.TimeoutExpired:
            status = f"took longer than {limit:.0f} s"
        found = json.loads(result.read_text()) if result.exists() else None
    return {
        "status": status,
        "seconds": perf_counter() - begun,
        "command": " ".join(command),
        "result": found,
    }


def reason(output: str) -> str:
    """The last line of an error that says something."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["ended without a word"])[-1][:300]


if __name__ == "__main__":
    main()
