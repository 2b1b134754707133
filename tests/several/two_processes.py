"""A user's training script, launched as such: ``python two_processes.py FOLDER KIND [OPTIONS]``.

Lightning starts the second process itself, by running this script once more.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from conftest import FineTuning, loader, tiny_peft, tokens, trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torchdata.stateful_dataloader import StatefulDataLoader

from influcoder_lightning import InfluenceCallback
from influcoder_lightning.valuation.recorder import Recorder


@atexit.register
def leave() -> None:
    """Lightning leaves a gloo group to the interpreter's exit, which it sometimes aborts."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Sharded(FineTuning):
    """FSDP2: every decoder layer's parameters live on both processes in halves."""

    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        layers = self.model.get_base_model().model.layers
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)


class DiesAt(Callback):
    """The second process is gone, without a word, when so many steps are done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_rank == 1 and trainer.global_step == self.step:
            os._exit(9)


def fail_on_the_second_process() -> None:
    """Its recorder cannot take rows from the second step on."""
    add = Recorder.add

    def trouble(self, rows, epoch, step, rate):
        if self._processes.rank == 1 and step >= 1:
            raise OSError("No space left on device")
        add(self, rows, epoch, step, rate)

    Recorder.add = trouble


def main(folder: Path, kind: str, options: dict) -> None:
    strategy = {
        "ddp": lambda: DDPStrategy(process_group_backend="gloo"),
        "spawn": lambda: DDPStrategy(process_group_backend="gloo", start_method="spawn"),
        "fsdp2": lambda: ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo"
        ),
    }[kind]()
    torch.manual_seed(0)
    module = (Sharded if kind == "fsdp2" else FineTuning)(tiny_peft())
    n_samples, ckpt = options.pop("n_samples", 16), options.pop("ckpt", None)
    epochs, save = options.pop("epochs", 1), options.pop("save", None)
    dies_at = options.pop("dies_at", None)
    settings = {"sketch_dim": 256, "code_dim": 8, "keep_sketches": True} | options
    queries = settings.pop("queries", True)
    if queries == "hook":
        module.query_dataloader = lambda: loader(tokens(3, seed=52), 2)
    elif queries:
        settings["query_dataloader"] = loader(tokens(3, seed=52), 2)
    if options.pop("trouble", False):
        fail_on_the_second_process()
        settings.pop("trouble")
    callback = InfluenceCallback(str(folder / "store"), **settings)
    callbacks: list[Callback] = [callback]
    if save is not None:
        callbacks.append(ModelCheckpoint(folder, every_n_train_steps=save, save_top_k=-1))
    if dies_at is not None:
        callbacks.append(DiesAt(dies_at))
    run = trainer(
        folder,
        callbacks,
        devices=2,
        strategy=strategy,
        max_epochs=epochs,
        enable_checkpointing=save is not None,
    )
    plain = loader(tokens(n_samples, seed=51), 4)
    batches = StatefulDataLoader(plain.dataset, batch_size=4, collate_fn=plain.collate_fn)
    run.fit(module, batches if save else plain, ckpt_path=ckpt)
    if run.is_global_zero:
        (folder / "done").write_text(f"{run.global_step} steps")


def one_of_two(folder: Path, kind: str, options: dict, environment: dict[str, str]) -> None:
    """`main` in a process that was started for it; what it says is added to the file ``said``."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("PL_GLOBAL_SEED", None)
    os.environ.update(environment)
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(folder, kind, options)
    leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
