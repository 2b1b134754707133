"""The run that release 0.1.0 made the archives with, to be gone on with by this release."""

from __future__ import annotations

import tarfile
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning import (
    EpochLoader,
    InfluenceCallback,
    collate_with_sample_ids,
    with_sample_ids,
)

HERE = Path(__file__).parent / "release_0_1"
N_SAMPLES, BATCH, EPOCHS = 24, 4, 2
ROWS = N_SAMPLES * EPOCHS


class Stopping(LightningModule):
    """A user's module that does ``action`` when it comes to ``step``."""

    def __init__(self, action=None, step=-1):
        super().__init__()
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=31,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
        lora = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
        self.model = get_peft_model(LlamaForCausalLM(config), lora)
        self.action, self.step = action, step

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.step:
            self.action()
        return self.model(input_ids=batch["input_ids"], labels=batch["labels"]).loss

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


def samples(n, seed):
    tokens = torch.randint(1, 31, (n, 8), generator=torch.Generator().manual_seed(seed))
    labels = tokens.clone()
    labels[:, :3] = -100
    return [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]


def loader(n, seed):
    collate = collate_with_sample_ids()
    return EpochLoader(with_sample_ids(samples(n, seed)), batch_size=BATCH, collate=collate, seed=0)


def run(folder, module=None, *, co_train, ckpt=None):
    """Two epochs into ``folder/store``, a checkpoint every three steps into ``folder``."""
    callback = InfluenceCallback(
        str(folder / "store"),
        query_dataloader=list(loader(4, seed=2)),
        sketch_dim=32,
        code_dim=8,
        keep_sketches=True,
        segment_rows=8,
        co_train=co_train,
    )
    checkpoints = ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=1, save_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            callbacks=[callback, checkpoints],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module or Stopping(), loader(N_SAMPLES, seed=1), ckpt_path=ckpt)


def unpacked(name, folder):
    """The archive ``finished`` or ``killed`` in a new folder inside ``folder``."""
    target = folder / name
    with tarfile.open(HERE / f"{name}.tar.gz") as archive:
        archive.extractall(target, filter="data")
    return target
