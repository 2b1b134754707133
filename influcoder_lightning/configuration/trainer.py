"""Keys of the group ``trainer``: the arguments of `lightning.pytorch.Trainer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from influcoder_lightning.configuration.key import key


@dataclass(frozen=True)
class TrainerArguments:
    """Every argument of `lightning.pytorch.Trainer`, for all trainings of a run; null: Lightning's
    own default, but for what the recipes need (no bar of its own, metrics of every step).
    """

    accelerator: Any = key(None, "cpu, gpu, mps, ...; null: what there is")
    strategy: Any = key(
        None, "ddp, fsdp2 (weights in shares), ...; null: ddp where there are several devices"
    )
    devices: Any = key(
        None, "how many of this machine (each trains in a process of its own), or which: [0,2]; "
        "auto: all; null: 1"
    )  # fmt: skip
    num_nodes: Any = key(None, "machines that train together, each started with the same command")
    precision: Any = key(None, "the same as train.precision")
    accumulate_grad_batches: Any = key(None, "the same as train.accumulate")
    max_steps: Any = key(None, "the same as train.steps")
    max_epochs: Any = key(None, "the same as train.epochs")
    gradient_clip_val: Any = key(None, "largest gradient norm (or value) of a step")
    gradient_clip_algorithm: Any = key(None, "norm or value")
    callbacks: Any = key(
        None, "further Lightning callbacks, {name: {_target_: class, ...}}, in every training"
    )
    deterministic: Any = key(None, "true, or warn: only kernels that repeat")
    benchmark: Any = key(None, "let cuDNN look for its fastest kernels")
    detect_anomaly: Any = key(None, "find the operation that made a NaN; slow")
    fast_dev_run: Any = key(None, "so many batches and no files: does it run at all?")
    min_epochs: Any = key(None, "at least so many")
    min_steps: Any = key(None, "at least so many")
    max_time: Any = key(None, "ends a training after DD:HH:MM:SS")
    limit_train_batches: Any = key(None, "so many batches (or that share) of each epoch")
    limit_val_batches: Any = key(None, "without effect: no recipe validates while it trains")
    limit_test_batches: Any = key(None, "without effect")
    limit_predict_batches: Any = key(None, "without effect")
    overfit_batches: Any = key(None, "the same few batches again and again")
    val_check_interval: Any = key(None, "without effect")
    check_val_every_n_epoch: Any = key(None, "without effect")
    num_sanity_val_steps: Any = key(None, "without effect")
    log_every_n_steps: Any = key(None, "optimizer steps between lines of the loggers; null: 1")
    logger: Any = key(None, "not here: the group logger has them")
    enable_checkpointing: Any = key(None, "not here: train.checkpoint_every_n_steps")
    enable_progress_bar: Any = key(None, "Lightning's bar beside the command's own")
    enable_model_summary: Any = key(None, "a table of the model when a training begins")
    inference_mode: Any = key(None, "without effect")
    use_distributed_sampler: Any = key(None, "without effect: the recipes deal the rows out")
    profiler: Any = key(None, "simple, advanced, pytorch")
    barebones: Any = key(None, "no callbacks but those that measure nothing; not with valuations")
    plugins: Any = key(None, "[{_target_: class, ...}]")
    sync_batchnorm: Any = key(None, "over all processes")
    reload_dataloaders_every_n_epochs: Any = key(None, "without effect")
    default_root_dir: Any = key(None, "not here: a run writes into its run folder alone")
    enable_autolog_hparams: Any = key(None, "let loggers keep the module's hyperparameters")
    model_registry: Any = key(None, "name of a model in Lightning's registry")
