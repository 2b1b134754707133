"""Does a long run stay as small and as fast as it began?

    OMP_NUM_THREADS=1 python benchmarks/soak.py --steps 20000

A tiny Llama, the callback at its default sketch and code widths with co-training, queries every
2,000 steps and a checkpoint every 2,500. After the warm-up (the buffer of 8,192 rows is full)
resident memory must stay within 5 per cent, open files must not become more, and a step must not
take over 10 per cent longer at the end than at the start. Writes ``benchmarks/results/soak.json``.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import report
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning import (
    InfluenceCallback,
    InfluenceStore,
    collate_with_sample_ids,
    with_sample_ids,
)

VOCABULARY, LENGTH, BATCH, EVERY = 61, 12, 2, 250


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """Random token sequences, each a function of its index."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        tokens = torch.randint(1, VOCABULARY, (LENGTH,), generator=generator)
        labels = tokens.clone()
        labels[: LENGTH // 2] = -100
        return {"input_ids": tokens, "labels": labels}


class Toy(LightningModule):
    """An existing user's module."""

    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = get_peft_model(LlamaForCausalLM(config), lora)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The model's own loss."""
        return self.model(input_ids=batch["input_ids"], labels=batch["labels"]).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the LoRA weights."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-4)


class Watch(Callback):
    """Notes memory, open files and CPU time every `EVERY` steps."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self._cpu = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One line."""
        step = trainer.global_step
        if step % EVERY == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            cpu = process_time()
            line = {
                "step": step,
                "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                "open_files": len(os.listdir("/proc/self/fd")),
                "cpu_ms_per_step": 1000 * (cpu - self._cpu) / EVERY if self.lines else float("nan"),
            }
            self._cpu = cpu
            self.lines.append(line)
            if step % (4 * EVERY) == 0:
                print(" ".join(f"{k}={v:.1f}" for k, v in line.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--warm-up", type=int, default=5_000)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "soak.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        callback = InfluenceCallback(
            f"{folder}/store",
            query_dataloader=loader(8),
            refresh_queries_every_n_steps=2_000,
            keep_states=2,
        )
        saver = ModelCheckpoint(folder, every_n_train_steps=2_500)
        trainer = Trainer(
            default_root_dir=folder,
            max_steps=options.steps,
            accelerator="cpu",
            logger=False,
            callbacks=[callback, watch, saver],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Toy(), loader(options.steps * BATCH))
        n_rows = len(InfluenceStore(f"{folder}/store"))
    result = summary(watch.lines, options.warm_up)
    result |= {"steps": options.steps, "warm_up": options.warm_up, "rows": n_rows}
    report.write(options.out, {**result, "lines": watch.lines, "environment": report.environment()})
    print(result)
    sound = n_rows == options.steps * BATCH and all(result["passed"].values())
    print(f"soak: {'passed' if sound else 'FAILED'}, {options.steps} steps")
    sys.exit(not sound)


def summary(lines: list[dict[str, float]], warm_up: int) -> dict[str, Any]:
    """The figures after the warm-up: medians over the first and the last fifth."""
    warm = [line for line in lines if line["step"] > warm_up]
    fifth = max(1, len(warm) // 5)
    first, last = warm[:fifth], warm[-fifth:]

    def median(part: list[dict[str, float]], name: str) -> float:
        return float(np.median([line[name] for line in part]))

    growth = median(last, "rss_mib") / median(first, "rss_mib")
    slower = median(last, "cpu_ms_per_step") / median(first, "cpu_ms_per_step")
    files = median(last, "open_files") - median(first, "open_files")
    return {
        "rss_growth": growth,
        "rss_mib": median(last, "rss_mib"),
        "step_time_growth": slower,
        "cpu_ms_per_step": median(last, "cpu_ms_per_step"),
        "open_files_growth": files,
        "passed": {"memory": growth <= 1.05, "time": slower <= 1.10, "files": files <= 0},
    }


def loader(n: int) -> DataLoader[Any]:
    return DataLoader(
        with_sample_ids(Tokens(n)), batch_size=BATCH, collate_fn=collate_with_sample_ids()
    )


if __name__ == "__main__":
    main()
