"""What does capture cost beside the training that happens anyway?

    OMP_NUM_THREADS=1 python benchmarks/capture_cost.py --model MODEL

CPU time of a Trainer's step with and without the callback, alternating, on two shapes: the given
model with 16 samples of 256 tokens, and a tiny random Llama (hidden 128, 4 layers, vocabulary
1,000) with 16 samples of 64. Three ways: capture alone (sketch, random code, segments on disk),
with the gradient tower co-trained, and with sketches kept. What happens once, at the end of the run
(the last tower version, merging), stands apart in seconds. Writes
``benchmarks/results/capture_cost.json``.
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
import warnings
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import report
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning import InfluenceCallback, collate_with_sample_ids, with_sample_ids
from influcoder_lightning.models import load_base_model

BATCH, SKIP = 16, 2
WAYS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "capture": {"co_train": False},
    "gradient tower co-trained": {},
    "sketches kept": {"co_train": False, "keep_sketches": True},
}


class Module(LightningModule):
    """An existing user's module."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The model's own loss."""
        return self.model(input_ids=batch["input_ids"], labels=batch["labels"]).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the LoRA weights."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-4)


class Clock(Callback):
    """CPU time at the start of each step and at the end of the fit."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """A step begins."""
        self.times.append(process_time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "capture_cost.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    shapes = {
        "model, 256 tokens": (lambda: load_base_model(options.model), 256, options.steps),
        "tiny Llama, 64 tokens": (tiny, 64, 4 * options.steps),
    }
    results = {}
    for name, (build, length, steps) in shapes.items():
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, settings in WAYS.items():
                times[way].append(cost(build, length, steps, settings))
        results[name] = summary(times)
        print(name, {way: f"{row['ratio']:.3f}" for way, row in results[name].items()}, flush=True)
    report.write(
        options.out,
        {
            "clock": "CPU time, one thread",
            "batch": BATCH,
            "rounds": options.rounds,
            "shapes": results,
            "environment": report.environment(),
        },
    )


def summary(times: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Medians over the rounds; ratios are taken within a round, since machines drift."""
    rows = {}
    plain = np.array(times["plain"])[:, 0]
    for way, values in times.items():
        steps, ends = np.array(values).T
        ratios = steps / plain
        rows[way] = {
            "ms_per_step": float(np.median(steps)),
            "seconds_at_the_end": float(np.median(ends)),
            "ratio": float(np.median(ratios)),
            "ratio_low": float(ratios.min()),
            "ratio_high": float(ratios.max()),
        }
    return rows


def cost(
    build: Any, length: int, steps: int, settings: dict[str, Any] | None
) -> tuple[float, float]:
    """CPU milliseconds per step of one run, and CPU seconds after its last step began."""
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(build(), lora).train()
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, vocabulary, (BATCH * steps, length), generator=generator)
    rows = [{"input_ids": row, "labels": row.clone()} for row in tokens]
    batches = DataLoader(
        with_sample_ids(rows), batch_size=BATCH, collate_fn=collate_with_sample_ids()
    )
    clock = Clock()
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[Callback] = [clock]
        if settings is not None:
            callbacks.append(InfluenceCallback(f"{folder}/store", **settings))
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
        trainer.fit(Module(model), batches)
        end = process_time()
    # From the third step on: the first ones warm caches, with or without us.
    last = clock.times[-1]
    return 1000 * (last - clock.times[SKIP]) / (steps - 1 - SKIP), end - last


def tiny() -> Any:
    """The tiny Llama that other tools were measured on."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1000,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )


if __name__ == "__main__":
    main()
