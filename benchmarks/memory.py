"""How much memory does capture take beside the training, and does a formula foretell it?

    OMP_NUM_THREADS=1 python benchmarks/memory.py
    python benchmarks/memory.py --device cuda --shapes 0.5b 3b --dtype bfloat16

The same few steps with and without the callback, each in a process of its own; what happens once at
the end of a run does not count. On a CPU two instruments: every allocation of torch as its profiler
sees it (exact, but blind to HDF5, NumPy and the libraries' own buffers), and the peak of resident
memory (all there is, with the noise of malloc). On a GPU: the peak that torch's allocator reports.
`memory_formula.py` has the formula. Writes ``benchmarks/results/memory.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import report
import shapes
import torch
from capture_cost import fit
from lightning.pytorch import Callback, Trainer
from memory_formula import LIBRARIES, Setting, expected, terms
from torch.utils.data import DataLoader

from influcoder_lightning import collate_with_sample_ids, with_sample_ids
from influcoder_lightning.capture.layers import find_lora_linears

MIB = 2**20

TINY = Setting()
SHORT = Setting(shape=(512, 2048, 2, 8, 8, 1000), batch=32, tokens=4, sketch_dim=2048, code_dim=64)
CO = Setting(co_train=True, sketch_dim=2048, code_dim=128, batch=64, tokens=8, steps=10)
SETTINGS = {
    "tiny Llama, defaults": TINY,
    "vocabulary of 32,000": replace(TINY, shape=(128, 512, 4, 4, 4, 32_000)),
    "short samples": SHORT,
    "short samples, batch of 128": replace(SHORT, batch=128),
    "short samples, rank 32": replace(SHORT, rank=32),
    "short samples, rank 32, scattered": replace(SHORT, rank=32, sketch_dim=128),
    "sketch of 65,536": replace(TINY, sketch_dim=65_536),
    "sketches kept": replace(TINY, keep_sketches=True, steps=100),
    "sketches kept, segments of 256 rows": replace(
        TINY, keep_sketches=True, steps=100, segment_rows=256
    ),
    "co-trained, 640 rows": CO,
    "co-trained, 2,560 rows": replace(CO, steps=40),
    "co-trained, defaults, 8,192 rows": Setting(co_train=True, batch=64, tokens=8, steps=128),
}


class Moments(Callback):
    """Marks the moments at which capture works, in a training with or without it."""

    def __init__(self, device: str) -> None:
        self.device, self.levels, self.resident = device, {"peak": 0.0}, 0.0

    def mark(self, name: str) -> None:
        """The moment ``name`` has come."""
        if self.device == "cuda":
            level = float(torch.cuda.memory_allocated())
            self.levels[name] = max(self.levels.get(name, 0.0), level)
        else:
            with torch.profiler.record_function(f"moment {name}"):
                pass

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Watch the gradients that reach the LoRA linears, and the logits."""
        self.mark("start")
        for linear in find_lora_linears(pl_module.model):
            linear.module.register_forward_hook(self._gradient_mark(linear.name))
        pl_module.model.register_forward_hook(lambda *_: self.mark("losses"))
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _gradient_mark(self, name: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            output.register_hook(lambda gradient: self.mark(name))

        return hook

    def on_train_batch_end(self, *_: Any) -> None:
        """Rows are handed on, towers learn."""
        self.mark("step")

    def on_train_epoch_end(self, *_: Any) -> None:
        """What comes now happens once, and does not count."""
        self.mark("end")
        if self.device == "cuda":
            self.levels["peak"] = float(torch.cuda.max_memory_allocated())
        else:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            self.resident = 1024.0 * int(found[1]) if found else float("nan")


def levels(profile: Any) -> dict[str, float]:
    """The peak of torch's allocations [bytes], and their level at each moment."""
    level, found = 0, {"peak": 0.0}
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            level += event.nbytes()
            found["peak"] = max(found["peak"], level)
        elif event.name() == "moment end":
            break
        elif event.name().startswith("moment "):
            name = event.name().removeprefix("moment ")
            found[name] = max(found.get(name, 0.0), level)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), help="settings on a CPU")
    parser.add_argument("--shapes", nargs="+", help="of `shapes.py`, or folders, instead")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3, help="of resident memory")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "memory.json")
    options = parser.parse_args()
    if options.device == "cpu" and "MALLOC_ARENA_MAX" not in os.environ:
        # One arena, and blocks of 64 KiB and more go back to the system at once.
        quiet = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | quiet)
    torch.set_num_threads(1)
    settings = {name: SETTINGS[name] for name in options.only or SETTINGS}
    if options.shapes:
        settings = {
            f"{Path(shape).name}, {options.batch} x {options.length} tokens, {co}": Setting(
                shape, options.batch, options.length, co_train=co == "co-trained"
            )
            for shape in options.shapes
            for co in ("capture", "co-trained")
        }
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name, setting in settings.items():
        name += f", {options.device} {options.dtype}"
        results[name] = compare(setting, options)
        report.write(options.out, results)
        mib = {k: f"{v / MIB:.1f}" for k, v in results[name]["extra"].items()}
        print(f"{name}: {mib} MiB", flush=True)


def compare(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Measured and expected extra memory of a setting, in bytes."""
    instrument = "cuda" if options.device == "cuda" else "profiler"
    plain, captured = (apart(setting, way, instrument, options.dtype) for way in (False, True))
    with torch.device("meta"):
        model = setting.build("meta", options.dtype)
    parts = terms(setting, find_lora_linears(model), model.config.vocab_size, options.dtype)
    extra = {
        "expected": expected(parts, plain, options.device),
        "measured": captured["peak"] - plain["peak"],
    }
    if options.device == "cpu" and options.rounds:
        rounds = [
            apart(setting, True, "rss", options.dtype)["rss"]
            - apart(setting, False, "rss", options.dtype)["rss"]
            for _ in range(options.rounds)
        ]
        extra["resident"] = statistics.median(rounds)
        extra["resident, expected"] = extra["expected"] + LIBRARIES
    return {
        "setting": asdict(setting),
        "extra": extra,
        "kept": parts["kept"],
        "largest moment": max(parts["moments"].values()),
        "peak of the training alone": plain["peak"],
        "device": shapes.device_name(options.device),
        "environment": report.environment(),
    }


def train(setting: Setting, captured: bool, instrument: str, dtype: str) -> dict[str, float]:
    """Bytes: the ``peak`` and the levels at each moment; or the peak of ``rss``."""
    device = "cuda" if instrument == "cuda" else "cpu"
    model = setting.build(device, dtype)
    rows = shapes.random_rows(
        setting.batch * setting.steps, setting.tokens, model.config.vocab_size
    )
    batches = DataLoader(
        with_sample_ids(rows), batch_size=setting.batch, collate_fn=collate_with_sample_ids()
    )
    moments = Moments(device)
    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[Callback] = [setting.callback(f"{folder}/store")] if captured else []
        if instrument == "profiler":
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            ) as profile:
                fit(model, batches, [moments, *callbacks], folder, device)
            return levels(profile)
        if instrument == "rss":
            Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        fit(model, batches, [moments, *callbacks], folder, device)
    return moments.levels if instrument == "cuda" else {"rss": moments.resident}


def apart(*args: Any) -> dict[str, float]:
    """`train` in a process of its own."""
    context = multiprocessing.get_context("spawn" if args[2] == "cuda" else "fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, args))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"the run {args} ended with code {process.exitcode}") from None
    finally:
        process.join()


def _send(sender: Any, args: Any) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    sender.send(train(*args))


if __name__ == "__main__":
    main()
