"""LoRA fine-tuning as the recipes do it: train for a number of steps, measure."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric

from influcoder_lightning.capture.features import evaluating
from influcoder_lightning.capture.forward import causal_lm_losses
from influcoder_lightning.capture.losses import response_tokens
from influcoder_lightning.data.epochs import EpochLoader
from influcoder_lightning.data.tokenization import collate_samples
from influcoder_lightning.devices import moved
from influcoder_lightning.errors import ConfigError, DataError
from influcoder_lightning.finetune.models import device
from influcoder_lightning.finetune.optimizers import ADAMW, CONSTANT, optimizer_of, schedule_of
from influcoder_lightning.finetune.trainers import is_shared_out, shard, trainer_of
from influcoder_lightning.random_streams import streams_kept
from influcoder_lightning.threads import choice, n_tokens, paced

log = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of a run: the LoRA, its optimizer, the place in the data, the valuation.

    Attributes:
        folder: where they are.
        every_n_steps: optimizer steps between them.
        resume: go on from the newest one that can be read.
    """

    folder: Path
    every_n_steps: int
    resume: bool = False

    def callback(self) -> Callback:
        """Saves them; the two newest stay, since a kill may cut the newest itself."""
        return ModelCheckpoint(
            self.folder,
            every_n_train_steps=self.every_n_steps,
            save_top_k=2,
            monitor="step",
            mode="max",
        )

    def newest(self) -> str | None:
        """The newest checkpoint that can be read; None to start anew."""
        if not self.resume:
            return None
        paths = sorted(self.folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
        for path in reversed(paths):
            try:
                torch.load(path, weights_only=True, map_location="cpu")
            except Exception as error:
                log.warning("%s cannot be read (%s); an older one is taken", path, error)
                continue
            return str(path)
        return None


class LoraFineTuning(LightningModule):
    """Fine-tunes a PEFT model on the mean loss per response token of each batch.

    Args:
        model: a causal LM with a LoRA; only its trainable parameters are optimised.
        lr: learning rate after the warm-up.
        weight_decay: of the optimizer.
        warmup: optimizer steps in which the learning rate rises linearly.
        optimizer: see `optimizers.optimizer_of`.
        scheduler: see `optimizers.schedule_of`.
        steps: optimizer steps of the training, which a scheduler may need.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        warmup: int = 0,
        optimizer: Mapping[str, Any] = ADAMW,
        scheduler: Mapping[str, Any] = CONSTANT,
        steps: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self._optimizer, self._scheduler, self._steps = optimizer, scheduler, steps
        self.strict_loading = False  # checkpoints hold the trained weights only

    def configure_model(self) -> None:
        """Where the strategy is FSDP2, every process keeps a share of the weights."""
        shard(self, self.model)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Hugging Face's own loss: the mean over all response tokens of the batch."""
        loss: Tensor = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
        ).loss
        self.log("train_loss", loss, batch_size=len(batch["input_ids"]))
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        kept = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["state_dict"] = kept

    def configure_optimizers(self) -> Any:
        """The optimizer over the trainable parameters, and its schedule, step by step."""
        optimizer = optimizer_of(self.model, self._optimizer, self.lr, self.weight_decay)
        schedule = schedule_of(optimizer, self._scheduler, self._steps, self.warmup)
        if schedule is None:
            return optimizer
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class _Threads(Callback):
    """Every micro-batch with the threads that the first ones were fastest with."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        """It begins."""
        choice("training").begin()

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, i: int) -> None:
        """It has ended."""
        choice("training").end(n_tokens(batch))


def steps_of_epochs(
    n_rows: int, epochs: float, batch_size: int, accumulate: int = 1, processes: int = 1
) -> int:
    """Optimizer steps that a number of epochs takes (the last batch of an epoch may be short)."""
    batches = math.ceil(n_rows / (batch_size * processes))
    return max(1, round(epochs * math.ceil(batches / accumulate)))


def train(
    model: _Model,
    dataset: Dataset,
    *,
    steps: int,
    pad_token_id: int,
    batch_size: int = 8,
    lr: float = 2e-4,
    weight_decay: float = 0.0,
    warmup: int = 0,
    accumulate: int = 1,
    precision: str = "32-true",
    trainer: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] = ADAMW,
    scheduler: Mapping[str, Any] = CONSTANT,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    checkpoints: Checkpoints | None = None,
) -> _Model:
    """Train the LoRA of a model, in place, for a fixed number of optimizer steps.

    The data is shuffled anew for each epoch by ``seed`` and read as often as the steps need. The
    global random state is left as it was. Several processes that train together take the
    micro-batches in turn: the same training as one process with ``accumulate`` times as many.

    Args:
        model: PEFT model.
        dataset: tokenised samples, as of ``data.tokenize_rows``.
        steps: optimizer steps.
        pad_token_id: pads the batches.
        batch_size: samples per micro-batch, in each process.
        lr: learning rate.
        weight_decay: of the optimizer.
        warmup: steps of linear warm-up.
        accumulate: micro-batches per optimizer step.
        precision: of the Lightning Trainer.
        trainer: its other arguments; see `trainers.trainer_of`.
        optimizer: see `optimizers.optimizer_of`.
        scheduler: see `optimizers.schedule_of`.
        seed: of order and dropout.
        callbacks: Lightning callbacks, for instance an `InfluenceCallback`.
        loggers: Lightning loggers, which get the metrics of every step.
        checkpoints: where they are saved, and gone on from.

    Returns:
        The model.

    Raises:
        DataError: the dataset is empty.
        ConfigError: steps, batch_size or accumulate below 1; arguments that Trainer, optimizer or
            scheduler refuse.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("accumulate", accumulate)):
        if value < 1:
            raise ConfigError(f"train.{name}={value} must be at least 1.")
    if not len(dataset):  # type: ignore[arg-type]  # of rows, so it is sized
        raise DataError("there is no row to train on.")
    loader = EpochLoader(dataset, batch_size, collate_samples(pad_token_id), seed)
    module = LoraFineTuning(model.train(), lr, weight_decay, warmup, optimizer, scheduler, steps)
    saving = [] if checkpoints is None else [checkpoints.callback()]
    with streams_kept():
        fitting = trainer_of(
            trainer or {},
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=accumulate,
            precision=precision,
            callbacks=[_Threads(), *callbacks, *saving],
            logger=list(loggers) or False,
            enable_checkpointing=bool(saving),
        )
        torch.manual_seed(seed + fitting.global_rank)  # dropout differs between processes
        fitting.fit(module, loader, ckpt_path=checkpoints.newest() if checkpoints else None)
    return model


def evaluate(model: nn.Module, dataset: Dataset, batch_size: int = 32) -> float:
    """Mean loss over all response tokens of a dataset, in nats; not the mean of batch means.

    Runs on the accelerator where there is one. Modes of the modules are put back.

    Raises:
        DataError: the dataset has no response token.
    """
    if not is_shared_out(model):
        model.to(device())
    # NaN stays NaN: a training that diverged must not look like one that did not.
    mean = MeanMetric(nan_strategy=math.nan).set_dtype(torch.float64).to(device())
    # The pad id does not matter here: padding is masked in attention and loss.
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=batch_size, collate_fn=collate_samples(0)
    )
    with evaluating(model), torch.no_grad():
        for batch in paced(loader, "measuring"):
            batch = moved(batch, device())
            losses = causal_lm_losses(model, batch, "labels")
            mean.update(losses, response_tokens(batch["labels"]))
    if not mean.weight:
        raise DataError("the evaluation rows have no response token.")
    return float(mean.compute())
