"""A training process is killed at random instants, again and again; is anything lost or doubled?

    OMP_NUM_THREADS=1 python benchmarks/kill_test.py --rounds 100

A tiny Llama is fine-tuned on random tokens with the callback, windows, co-training and checkpoints.
In each round the process gets SIGKILL at a random instant, up to three times. After each kill the
store must open, hold every row that its manifest lists, and each of them as in a run that was never
stopped; then training goes on from the newest checkpoint that loads (from the start if there is
none). The final store must equal the uninterrupted run's: same rows once each, same codes, same
windows. Writes ``benchmarks/results/kill_test.json``; the last line printed counts the rounds.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import report
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, get_peft_model
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning import (
    InfluenceCallback,
    InfluenceStore,
    collate_with_sample_ids,
    with_sample_ids,
)
from influcoder_lightning.store.folder import rank_folder, run_file
from influcoder_lightning.store.manifest import Manifest

N_SAMPLES, LENGTH, VOCABULARY, BATCH = 480, 12, 61, 4
COLUMNS = ["window", "epoch", "step", "n_tokens", "loss", "learning_rate", "grad_norm"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--kills", type=int, default=3, help="per round, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "kill_test.json")
    options = parser.parse_args()
    quiet()
    rng = random.Random(options.seed)
    counts = {"kills": 0, "kills_before_the_first_row": 0, "rows_lost": []}
    passed, failures = 0, []
    with tempfile.TemporaryDirectory(prefix="kill_test_") as work:
        whole = Path(work, "whole")
        begun = monotonic()
        run(whole)
        seconds = monotonic() - begun
        reference = InfluenceStore(whole / "store")
        n_rows = len(reference)
        for index in range(options.rounds):
            folder = Path(work, f"round_{index}")
            try:
                one_round(folder, reference, seconds, rng, options.kills, counts)
                passed += 1
            except Exception as error:
                failures.append(f"round {index}: {type(error).__name__}: {error}")
                print(failures[-1], flush=True)
            shutil.rmtree(folder)
            print(f"round {index + 1} of {options.rounds}, {counts['kills']} kills", flush=True)
    lost = counts.pop("rows_lost")
    report.write(
        options.out,
        {
            "rounds": options.rounds,
            "passed": passed,
            "failures": failures,
            **counts,
            "rows_not_sealed_at_a_kill": {"mean": float(np.mean(lost)), "max": int(np.max(lost))},
            "rows": n_rows,
            "seconds_of_a_run": seconds,
            "seed": options.seed,
            "environment": report.environment(),
        },
    )
    print(f"kill_test: {passed} of {options.rounds} rounds")
    sys.exit(passed != options.rounds)


def one_round(
    folder: Path,
    reference: InfluenceStore,
    seconds: float,
    rng: random.Random,
    kills: int,
    counts: dict[str, Any],
) -> None:
    for _ in range(kills):
        process = start(folder)
        process.join(rng.uniform(0, seconds))
        alive = process.is_alive()
        if alive:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if not alive:
            if process.exitcode:
                raise RuntimeError(f"the training process ended with {process.exitcode}")
            break
        counts["kills"] += 1
        check_opens(folder / "store", reference, counts)
    else:
        process = start(folder)
        process.join()
        if process.exitcode:
            raise RuntimeError(f"the resumed process ended with {process.exitcode}")
    check_equal(InfluenceStore(folder / "store"), reference)


def check_opens(folder: Path, reference: InfluenceStore, counts: dict[str, Any]) -> None:
    """What was reported as written is there, and right."""
    if not run_file(folder).exists() and not (folder / "influence.h5").exists():
        counts["kills_before_the_first_row"] += 1
        return
    place = rank_folder(folder, 0)
    sealed = Manifest(place).n_rows if place.exists() else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = InfluenceStore(folder)
    if not store.attributes["complete"] and len(store) != sealed:
        raise AssertionError(f"{sealed} rows were sealed, {len(store)} came back")
    n = len(store)
    same(store.sample_ids, reference.sample_ids[:n], "ids")
    same(store.sketches(), reference.sketches()[:n], "sketches")
    for name in COLUMNS:
        same(store.records()[name], reference.records()[name][:n], name)
    seen = folder.parent / "seen"
    counts["rows_lost"].append(max(0, int(seen.read_text() or 0) - n) if seen.exists() else 0)


def check_equal(store: InfluenceStore, reference: InfluenceStore) -> None:
    if not store.attributes["complete"]:
        raise AssertionError("the store is incomplete")
    same(store.sample_ids, reference.sample_ids, "ids")
    same(store.records().to_numpy(), reference.records().to_numpy(), "records")
    same(store.codes(), reference.codes(), "codes")
    same(store.sketches(), reference.sketches(), "sketches")
    same(store.windows.to_numpy(), reference.windows.to_numpy(), "windows")
    for window in store.windows["window"]:
        same(store.query_codes(window), reference.query_codes(window), "query codes")
    same(store.query_codes(end=True), reference.query_codes(end=True), "last query codes")
    if store.attributes["counts"] != reference.attributes["counts"]:
        raise AssertionError(f"counts are {store.attributes['counts']}")


def same(left: Any, right: Any, what: str) -> None:
    if not np.array_equal(np.asarray(left), np.asarray(right), equal_nan=what != "ids"):
        raise AssertionError(f"{what} differ from the uninterrupted run's")


def start(folder: Path) -> Any:
    """A forked process, so that nothing has to be imported again."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder,))
    process.start()
    return process


class Toy(LightningModule):
    """An existing user's module; it notes how many samples it has seen."""

    def __init__(self, model: Any, seen: Path) -> None:
        super().__init__()
        self.model, self.seen = model, seen

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The model's own loss."""
        if batch_idx:  # rows of all batches before this one have been taken
            self.seen.write_text(str(batch_idx * BATCH))
        sleep(0.002)
        return self.model(input_ids=batch["input_ids"], labels=batch["labels"]).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the LoRA weights."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


def run(folder: Path, segment_seconds: float = 0.2) -> None:
    """A user's training run; goes on from the newest checkpoint that can be read."""
    torch.set_num_threads(1)
    quiet()
    ckpt = newest(folder / "ckpt")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    module = Toy(get_peft_model(LlamaForCausalLM(config), lora), folder / "seen")
    callback = InfluenceCallback(
        str(folder / "store"),
        query_dataloader=loader(6, seed=2),
        sketch_dim=256,
        code_dim=16,
        keep_sketches=True,
        refresh_queries_every_n_steps=15,
        segment_rows=10,
        segment_seconds=segment_seconds,
        overwrite=ckpt is None,
    )
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[
            callback,
            ModelCheckpoint(
                folder / "ckpt", every_n_train_steps=7, save_top_k=2, monitor="step", mode="max"
            ),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(N_SAMPLES, seed=1), ckpt_path=ckpt)


def newest(folder: Path) -> str | None:
    """A kill may have cut the newest checkpoint file itself."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            continue
        return str(path)
    return None


def loader(n: int, seed: int) -> StatefulDataLoader:
    tokens = torch.randint(
        1, VOCABULARY, (n, LENGTH), generator=torch.Generator().manual_seed(seed)
    )
    labels = tokens.clone()
    labels[:, : LENGTH // 2] = -100
    rows = [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]
    return StatefulDataLoader(
        with_sample_ids(rows), batch_size=BATCH, collate_fn=collate_with_sample_ids()
    )


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
