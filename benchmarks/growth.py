"""How does the cost of capture grow with the batch, the length, the rank and the model?

    OMP_NUM_THREADS=1 python benchmarks/growth.py --plot

CPU time of a Trainer's step (forward, backward, AdamW on the LoRA) of a tiny Llama with and without
the callback (``co_train=False``), one thing varied at a time around a base shape: hidden 128, 4
layers, 16 samples of 64 tokens, rank 8. Short fits with and without alternate in one process; a
figure is the median of all their steps. Segments are written at the end of a fit and so are no part
of a step: ``peers.py`` counts them. Writes ``benchmarks/results/growth.json`` and, with ``--plot``,
``docs/growth.svg``; ``--quick`` tries both on two values of each and keeps nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import tempfile
import warnings
from pathlib import Path
from time import process_time
from typing import Any

import matplotlib
import numpy as np
import report
import torch
from capture_cost import fit
from lightning.pytorch import Callback
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning import InfluenceCallback, collate_with_sample_ids, with_sample_ids

BASE = {"batch": 16, "length": 64, "rank": 8, "hidden": 128, "layers": 4}
VALUES = {
    "batch": [4, 8, 16, 32],
    "length": [32, 64, 128, 256],
    "rank": [2, 4, 8, 16, 32],
    "hidden": [64, 128, 256, 512],
    "layers": [2, 4, 8, 16],
}
LABELS = {
    "batch": "samples in a batch",
    "length": "tokens in a sample",
    "rank": "LoRA rank",
    "hidden": "hidden size",
    "layers": "layers",
}
VOCABULARY, SKIP = 1000, 3
PLOT = Path(__file__).parent.parent / "docs" / "growth.svg"

Shape = dict[str, int]


class Clock(Callback):
    """CPU time at the start of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """A step begins."""
        self.times.append(process_time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--plot-only", action="store_true", help="of the figures that are kept")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "growth.json")
    options = parser.parse_args()
    plot = PLOT
    if options.quick:
        scratch = Path(tempfile.gettempdir())
        options.out, plot = scratch / "growth.json", scratch / "growth.svg"
        options.rounds = 2
    if not options.plot_only:
        report.write(options.out, measured(options.rounds, options.quick))
    if options.plot or options.plot_only:
        draw(json.loads(options.out.read_text()), plot)
        print(plot)


def measured(rounds: int, quick: bool) -> dict[str, Any]:
    """All figures."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    values = {
        name: [value for value in values if value >= BASE[name]][:2] if quick else values
        for name, values in VALUES.items()
    }
    shapes = {key(shape): shape for name in values for shape in shapes_of(name, values[name])}
    # All shapes in every round, so that a machine's drift is no difference between shapes.
    pairs: dict[tuple[int, ...], list[tuple[float, float]]] = {of: [] for of in shapes}
    for number in range(rounds):
        for of, shape in shapes.items():
            order = (False, True) if number % 2 == 0 else (True, False)
            times = {captures: step_ms(shape, captures) for captures in order}
            pairs[of].append((times[False], times[True]))
        print(f"round {number + 1} of {rounds}", flush=True)
    variables = {}
    for name in values:
        points = [
            {"value": shape[name], **summary(pairs[key(shape)])}
            for shape in shapes_of(name, values[name])
        ]
        exponents = {of: exponent(points, f"{of}_ms") for of in ("plain", "extra")}
        variables[name] = {"points": points, "exponents": exponents}
        for point in points:
            print(name, {what: round(number, 3) for what, number in point.items()})
        print(name, "exponents", exponents, flush=True)
    return {
        "clock": "CPU time of a training step, one thread",
        "base": BASE,
        "rounds": rounds,
        "variables": variables,
        "environment": report.environment(),
    }


def shapes_of(name: str, values: list[int]) -> list[Shape]:
    return [BASE | {name: value} for value in values]


def key(shape: Shape) -> tuple[int, ...]:
    return tuple(shape.values())


def summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Medians over the rounds of a plain step, of what capture adds to it, and of their ratio."""
    plain, captured = np.array(pairs).T
    ratios = captured / plain
    return {
        "plain_ms": float(np.median(plain)),
        "extra_ms": float(np.median(captured - plain)),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios.min()),
        "ratio_high": float(ratios.max()),
    }


def step_ms(shape: Shape, captures: bool) -> float:
    """CPU milliseconds of a step: the median of one short fit's, after its first few."""
    size, usual = (s["batch"] * s["length"] * s["layers"] * s["hidden"] for s in (shape, BASE))
    steps = int(np.clip(12 * usual / size, 5, 40))  # a second or so for most shapes
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape["hidden"],
        intermediate_size=4 * shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=4,
        max_position_embeddings=max(VALUES["length"]),
    )
    rank = shape["rank"]
    lora = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(LlamaForCausalLM(config), lora).train()
    n = shape["batch"] * (steps + SKIP + 1)
    tokens = torch.randint(1, VOCABULARY, (n, shape["length"]))
    rows = [{"input_ids": row, "labels": row.clone()} for row in tokens]
    batches = DataLoader(
        with_sample_ids(rows), batch_size=shape["batch"], collate_fn=collate_with_sample_ids()
    )
    clock = Clock()
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[Callback] = [clock]
        if captures:
            callbacks.append(InfluenceCallback(f"{folder}/store", co_train=False))
        fit(model, batches, callbacks, folder)
    return 1000 * float(np.median(np.diff(clock.times[SKIP:])))


def exponent(points: list[dict[str, float]], name: str) -> float | None:
    """Slope of a line through the logarithms; None where noise left nothing to take one of."""
    values = np.array([point[name] for point in points])
    if (values <= 0).any():
        return None
    slope, _ = np.polyfit(np.log([point["value"] for point in points]), np.log(values), 1)
    return float(slope)


def draw(result: dict[str, Any], path: Path) -> None:
    """Five panels, both axes logarithmic."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "growth"  # the same figures give the same file
    figure, panels = plt.subplots(1, 5, figsize=(15, 3.6), sharey=True, layout="constrained")
    for panel, (name, variable) in zip(panels, result["variables"].items(), strict=True):
        values = [point["value"] for point in variable["points"]]
        for of, label, colour, mark in (
            ("plain", "training step", "#4c566a", "o"),
            ("extra", "capture adds", "#d08770", "s"),
        ):
            slope = variable["exponents"][of]
            label += "" if slope is None else rf" $\propto x^{{{slope:.2f}}}$"
            heights = [point[f"{of}_ms"] for point in variable["points"]]
            panel.plot(values, heights, color=colour, marker=mark, label=label)
        panel.set(xscale="log", yscale="log", xlabel=LABELS[name])
        panel.set_xticks(values, [str(value) for value in values])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, loc="upper left", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, 4 * high)  # room for the legends
    panels[0].set_ylabel("CPU ms per step")
    panels[0].yaxis.set_major_formatter("{x:g}")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
