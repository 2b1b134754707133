"""What does capture cost beside the training that happens anyway?

    OMP_NUM_THREADS=1 python benchmarks/capture_cost.py --shapes tiny MODEL
    OMP_NUM_THREADS=1 python benchmarks/capture_cost.py --shapes 0.5b --text-encoder FOLDER

Time of a Trainer's step with and without the callback, alternating: CPU time on a CPU, wall time on
a GPU. A shape is a name of `shapes.py` or the folder of a model. The ways: capture alone (sketch,
random code, segments on disk), with the gradient tower co-trained, with a sentence encoder
co-trained too (texts of as many tokens as the samples have), and with sketches kept. The timed span
is a multiple of the schedule, so that every co-training step weighs what it costs. Merging 512
sketches into the gradient tower comes once in 512 samples: it is taken out of the span and its
share added. What happens once, at the end of the run (the last tower version, merging), stands
apart in seconds. Results go into ``benchmarks/results/capture_cost.json``, one entry per setting.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import report
import shapes
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from influcoder_lightning import InfluenceCallback, collate_with_sample_ids, with_sample_ids
from influcoder_lightning.encoder.cotraining import FIT_ROWS
from influcoder_lightning.encoder.gradient_tower import GradientTower

SKIP, EVERY = 2, 10  # steps that warm caches; steps between co-training steps, the default
TEXT = "text tower co-trained"
WAYS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "capture": {"co_train": False},
    "gradient tower co-trained": {},
    TEXT: {},
    "sketches kept": {"co_train": False, "keep_sketches": True},
}
DEFAULTS = {"tiny": (16, 64, 80), "0.5b": (4, 128, 10)}  # batch, tokens, timed steps


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
    """Milliseconds at the start of each step; merges into the tower do not count."""

    def __init__(self, device: str) -> None:
        self.device, self.times, self.merging = device, [], 0.0

    def now(self) -> float:
        """The time that is judged by."""
        shapes.synchronise(self.device)
        return 1000 * (process_time() if self.device == "cpu" else perf_counter())

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """A step begins."""
        self.times.append(self.now() - self.merging)

    @contextmanager
    def watching_merges(self) -> Iterator[None]:
        """Keep the time of merges into the gradient tower apart."""
        fit = GradientTower.fit

        def timed(*args: Any, **kwargs: Any) -> None:
            start = self.now()
            fit(*args, **kwargs)
            self.merging += self.now() - start

        GradientTower.fit = timed
        try:
            yield
        finally:
            GradientTower.fit = fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["tiny"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--text-encoder", type=Path, help="sentence-transformers folder")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--steps", type=int, help=f"timed ones, a multiple of {EVERY}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "capture_cost.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.device == "cpu":
        torch.set_num_threads(1)
    ways = [way for way in WAYS if way in ("plain", *options.ways)]
    if options.text_encoder is None:
        ways = [way for way in ways if way != TEXT]
    for shape in options.shapes:
        given = (options.batch, options.length, options.steps)
        pairs = zip(given, DEFAULTS.get(shape, (16, 256, 20)), strict=True)
        batch, length, steps = (default if value is None else value for value, default in pairs)
        if steps % EVERY:
            parser.error(f"--steps {steps} is no multiple of {EVERY}")
        sizes = {"batch": batch, "tokens": length, "steps": steps}
        rounds: list[dict[str, tuple[float, float]]] = []
        for _ in range(options.rounds):
            rounds.append({way: cost(shape, way, options, **sizes) for way in ways})
            print({way: f"{ms:.1f} ms" for way, (ms, _) in rounds[-1].items()}, flush=True)
        kind = f"{options.device} {options.dtype}"
        name = f"{Path(shape).name}, {batch} x {length} tokens, {kind}"
        entry = {
            "clock": f"CPU time, {shapes.threads()}" if options.device == "cpu" else "wall time",
            "rounds": options.rounds,
            **sizes,
            "ways": summary(rounds),
            "device": shapes.device_name(options.device),
            "environment": report.environment(),
        }
        keep(options.out, name, entry)
        print(name, {way: f"{row['ratio']:.3f}" for way, row in entry["ways"].items()}, flush=True)


def keep(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Put an entry beside those that are there, or in the place of the one of its name."""
    known = json.loads(path.read_text()) if path.exists() else {}
    report.write(path, known | {name: entry})


def summary(rounds: list[dict[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Medians over the rounds; ratios are taken within a round, since machines drift."""
    rows = {}
    for way in rounds[0]:
        ratios = [times[way][0] / times["plain"][0] for times in rounds]
        rows[way] = {
            "ms_per_step": statistics.median(times[way][0] for times in rounds),
            "seconds_at_the_end": statistics.median(times[way][1] for times in rounds),
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
        }
    return rows


def cost(
    shape: str, way: str, options: argparse.Namespace, *, batch: int, tokens: int, steps: int
) -> tuple[float, float]:
    """Milliseconds per step of one run, and seconds after its last step began."""
    settings, device = WAYS[way], options.device
    model = shapes.build(shape, device=device, dtype=options.dtype)
    n_steps = SKIP + steps + 1  # the start of the last one ends the span
    rows = shapes.random_rows(batch * n_steps, tokens, model.config.vocab_size)
    if way == TEXT:
        settings = {"text_encoder": sentence_encoder(options.text_encoder, device)}
        texts = shapes.random_texts(len(rows), tokens, settings["text_encoder"].tokenizer)
        rows = [row | text for row, text in zip(rows, texts, strict=True)]
    batches = DataLoader(
        with_sample_ids(rows), batch_size=batch, collate_fn=collate_with_sample_ids()
    )
    clock = Clock(device)
    gc.collect()
    with tempfile.TemporaryDirectory() as folder, clock.watching_merges():
        callbacks: list[Callback] = [clock]
        if settings is not None:
            callbacks.append(InfluenceCallback(f"{folder}/store", **settings))
        fit(model, batches, callbacks, folder, device)
        end = clock.now()
    last = clock.times[-1]
    per_step = (last - clock.times[SKIP]) / steps
    co_trained = settings is not None and settings.get("co_train", True)
    merging = batch / FIT_ROWS * merge_cost(clock) if co_trained else 0.0
    return per_step + merging, (end - clock.merging - last) / 1000


def fit(
    model: Any, batches: Any, callbacks: list[Callback], folder: str, device: str = "cpu"
) -> None:
    """One epoch of a user's Trainer without anything that costs time of its own."""
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=1,
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(Module(model), batches)


def sentence_encoder(folder: Path, device: str) -> Any:
    """On the device of the model; the callback alone would leave it on the CPU."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device=device, local_files_only=True)


def merge_cost(clock: Clock) -> float:
    """Milliseconds of one merge of sketches into a tower that is full."""
    tower = GradientTower(8192, 512)
    for _ in range(2):  # the first one fills it
        start = clock.now()
        tower.fit(torch.randn(FIT_ROWS, 8192))
        spent = clock.now() - start
    return spent


if __name__ == "__main__":
    main()
