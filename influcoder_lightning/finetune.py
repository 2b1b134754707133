"""LoRA fine-tuning as the recipes do it: load, train for a number of steps, measure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from influcoder_lightning.capture.features import causal_lm_losses, evaluating
from influcoder_lightning.capture.losses import response_tokens
from influcoder_lightning.data.files import read_whole, why_no_file, why_no_model
from influcoder_lightning.data.tokenization import collate_samples
from influcoder_lightning.errors import ConfigError, DataError


class LoraFineTuning(LightningModule):
    """Fine-tunes a PEFT model with AdamW on the mean loss per response token of each batch.

    Args:
        model: a causal LM with a LoRA; only its trainable parameters are optimised.
        lr: learning rate after the warm-up.
        weight_decay: of AdamW.
        warmup: optimizer steps in which the learning rate rises linearly.
    """

    def __init__(
        self, model: nn.Module, lr: float = 2e-4, weight_decay: float = 0.0, warmup: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Hugging Face's own loss: the mean over all response tokens of the batch."""
        loss: Tensor = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
        ).loss
        self.log("train_loss", loss, batch_size=len(batch["input_ids"]))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW over the trainable parameters; constant learning rate after the warm-up."""
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        if not self.warmup:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / self.warmup)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def load_tokenizer(name: str) -> Any:
    """A tokenizer with a pad token, by hub name or local folder.

    Raises:
        ConfigError: it cannot be loaded, or has neither a pad nor an end token.
    """
    from transformers import AutoTokenizer

    _refuse_missing_folder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(_not_loadable("tokenizer", name, error)) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ConfigError(
                f"the tokenizer of {name!r} has neither a pad nor an end token; give it one with "
                "tokenizer.add_special_tokens and save it."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base_model(name: str) -> Any:
    """A causal LM in float32, by hub name or local folder; no remote code is run.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    _refuse_missing_folder(name)
    try:
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:
        raise ConfigError(_not_loadable("model", name, error)) from error


def add_lora(model: Any, lora: Mapping[str, Any], seed: int = 0) -> Any:
    """The model with a fresh LoRA, in train mode (from_pretrained leaves eval mode).

    Args:
        model: a causal LM; it is changed in place. ``unload()`` of the result gives it back.
        lora: ``r``, ``alpha``, ``dropout``, ``target_modules`` (names, or "all-linear").
        seed: of the initial weights; the global random state is left as it was.

    Raises:
        ConfigError: settings that PEFT refuses, or no module of these names.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.get("target_modules", "all-linear")
    try:
        config = LoraConfig(
            r=int(lora.get("r", 8)),
            lora_alpha=lora.get("alpha", 16),
            lora_dropout=float(lora.get("dropout", 0.0)),
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
        with isolate_rng():
            torch.manual_seed(seed)
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"lora={dict(lora)} does not work with this model: {error}") from error
    return adapted.train()


def load_model(name: str, lora: Mapping[str, Any], seed: int = 0) -> Any:
    """`load_base_model`, then `add_lora`."""
    return add_lora(load_base_model(name), lora, seed)


def load_adapter(model: Any, folder: str | Path) -> Any:
    """The model with a LoRA that was saved before, trainable.

    Raises:
        ConfigError: the folder holds no adapter, or one of another model.
    """
    from peft import PeftModel

    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if why := why_no_file(folder / name):
            raise ConfigError(
                f"model.adapter={folder}: no {name} there ({why}). Give a folder written by "
                "save_pretrained of a PEFT model."
            )
    try:
        _check_ranks(folder)
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True).train()
    except Exception as error:  # PEFT raises whatever a hostile value runs into
        first = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"the adapter in {folder} does not fit the model: {first:.500}"
        ) from error


def _check_ranks(folder: Path) -> None:
    """PEFT makes matrices of the ranks that the settings name, before it looks at the weights."""
    from safetensors import safe_open

    settings = json.loads(read_whole(folder / "adapter_config.json"))
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise ValueError("adapter_config.json describes no LoRA")
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        sizes = [n for key in weights.keys() for n in weights.get_slice(key).get_shape()]  # noqa: SIM118
    pattern = settings.get("rank_pattern") or {}
    ranks = [settings.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    for rank in ranks:
        if (
            isinstance(rank, bool)
            or not isinstance(rank, int)
            or not 1 <= rank <= max(sizes or [0])
        ):
            raise ValueError(f"r={rank!r:.60} in adapter_config.json is no rank of its weights")


def steps_of_epochs(n_rows: int, epochs: float, batch_size: int, accumulate: int = 1) -> int:
    """Optimizer steps that a number of epochs takes (the last batch of an epoch may be short)."""
    batches = math.ceil(n_rows / batch_size)
    return max(1, round(epochs * math.ceil(batches / accumulate)))


def train(
    model: Any,
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
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    log_folder: str | Path | None = None,
) -> Any:
    """Train the LoRA of a model, in place, for a fixed number of optimizer steps.

    The data is shuffled anew for each epoch by ``seed`` and read as often as the steps need. The
    global random state is left as it was.

    Args:
        model: PEFT model.
        dataset: tokenised samples, as of ``data.tokenize_rows``.
        steps: optimizer steps.
        pad_token_id: pads the batches.
        batch_size: samples per micro-batch.
        lr: learning rate.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up.
        accumulate: micro-batches per optimizer step.
        precision: of the Lightning Trainer.
        seed: of order and dropout.
        callbacks: Lightning callbacks, for instance an `InfluenceCallback`.
        log_folder: write ``metrics.csv`` there; None: no logger.

    Returns:
        The model.

    Raises:
        DataError: the dataset is empty.
        ConfigError: steps, batch_size or accumulate below 1.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("accumulate", accumulate)):
        if value < 1:
            raise ConfigError(f"train.{name}={value} must be at least 1.")
    if not len(dataset):  # type: ignore[arg-type]
        raise DataError("there is no row to train on.")
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=collate_samples(pad_token_id),
    )
    module = LoraFineTuning(model.train(), lr, weight_decay, warmup)
    with isolate_rng():
        torch.manual_seed(seed)
        trainer = _trainer(
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=accumulate,
            precision=precision,
            devices=1,
            callbacks=list(callbacks),
            logger=False if log_folder is None else CSVLogger(log_folder, name="", version=""),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)
    return model


def _trainer(**options: Any) -> Trainer:
    try:
        return Trainer(**options)
    except ValueError as error:  # what MisconfigurationException does not cover
        raise ConfigError(f"train.precision={options['precision']!r}: {error}") from error


def evaluate(model: Any, dataset: Dataset, batch_size: int = 32) -> float:
    """Mean loss over all response tokens of a dataset, in nats; not the mean of batch means.

    Runs on the accelerator where there is one. Modes of the modules are put back.

    Raises:
        DataError: the dataset has no response token.
    """
    model.to(device())
    total, count = 0.0, 0
    # The pad id does not matter here: padding is masked in attention and loss.
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=batch_size, collate_fn=collate_samples(0)
    )
    with evaluating(model), torch.no_grad():
        for batch in loader:
            batch = move_data_to_device(batch, device())
            n_tokens = response_tokens(batch["labels"])
            losses = causal_lm_losses(model, batch, "labels").double()
            total += float((losses * n_tokens).sum())
            count += int(n_tokens.sum())
    if not count:
        raise DataError("the evaluation rows have no response token.")
    return total / count


def device() -> torch.device:
    """Where the recipes compute: the accelerator, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _refuse_missing_folder(name: str) -> None:
    """A path that is not there must not be asked for at the hub."""
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).exists():
        raise ConfigError(f"model.name={name}: no such folder.")
    if Path(name).is_dir() and (why := why_no_model(Path(name))):
        raise ConfigError(f"model.name={name}: {why}. Give a folder written by save_pretrained.")


def _not_loadable(what: str, name: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"no {what} could be loaded from model.name={name!r}: {first} Give a folder written by "
        "save_pretrained, or a name on the Hugging Face hub that is reachable from here."
    )
