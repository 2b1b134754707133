"""The Lightning Trainer of a training, from the section ``trainer``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import nn
from torch.distributed.tensor import DTensor

from influcoder_lightning.errors import ConfigError, did_you_mean

FSDP2 = "fsdp2"
_OURS: Mapping[str, Any] = {
    "devices": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
# Where training happens, and not what is trained.
PLACE = ("accelerator", "strategy", "devices", "num_nodes")


def trainer_of(section: Mapping[str, Any], **ours: Any) -> Trainer:
    """A Trainer with the arguments of the section; those that are null are left to Lightning.

    Args:
        section: arguments of `lightning.pytorch.Trainer`; ``strategy`` may be ``fsdp2``.
        ours: arguments that the section does not decide; callbacks are added to its own.

    Raises:
        ConfigError: an argument that there is not, or that the Trainer refuses; a strategy that
            starts its processes in the middle of a training, or flattens the weights.
    """
    known = inspect.signature(Trainer).parameters
    given = {name: value for name, value in section.items() if value is not None}
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown key 'trainer.{name}'{did_you_mean(name, list(known))}")
    if given.get("strategy") == FSDP2:
        given["strategy"] = _Shares()
    callbacks = [*ours.pop("callbacks", ()), *(given.pop("callbacks", None) or ())]
    try:
        trainer = Trainer(**{**_OURS, **given, **ours, "callbacks": callbacks})
    except (ValueError, TypeError) as error:  # what MisconfigurationException does not cover
        said = {f"trainer.{name}": given[name] for name in PLACE if name in given}
        said["train.precision"] = ours.get("precision", given.get("precision"))
        shown = ", ".join(f"{name}={value!r:.60}" for name, value in said.items())
        raise ConfigError(f"{shown}: {error}") from error
    _refuse_strategy(trainer)
    return trainer


def _refuse_strategy(trainer: Trainer) -> None:
    strategy = trainer.strategy
    name = type(strategy).__name__
    if not isinstance(strategy, DDPStrategy | ModelParallelStrategy | SingleDeviceStrategy):
        raise ConfigError(
            f"trainer.strategy: {name} rearranges the weights, so that a LoRA could neither be "
            "valued nor measured. Give ddp, or fsdp2 for weights in shares."
        )
    if isinstance(strategy, DDPStrategy) and strategy._start_method != "popen":
        raise ConfigError(
            "trainer.strategy: processes that begin in the middle of a training know nothing of "
            "the run around it. Give ddp, whose processes take part from the start."
        )


class _Shares(ModelParallelStrategy):
    """FSDP2: all processes share the weights out, and each sees other samples."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1)

    def setup_environment(self) -> None:
        """Lightning's "auto" is one process of each machine."""
        self._data_parallel_size = self.world_size
        super().setup_environment()


def is_shared_out(model: nn.Module) -> bool:
    """Whether each process keeps a share of the weights."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def save_lora(model: Any, folder: Path) -> None:
    """Write the LoRA as PEFT does, also one in shares; then all processes call this."""
    if not is_shared_out(model):
        model.save_pretrained(str(folder))
        return
    state = {
        name: weight.full_tensor() if isinstance(weight, DTensor) else weight
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    model.save_pretrained(str(folder), state_dict=state)


def shard(module: LightningModule, model: Any) -> None:
    """Cut a model's weights into shares, one for each process, where the strategy is FSDP2."""
    strategy = module.trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy):
        return
    from torch.distributed.fsdp import fully_shard

    assert strategy.device_mesh is not None
    mesh = strategy.device_mesh["data_parallel"]
    for layers in model.modules():
        if isinstance(layers, nn.ModuleList):  # of blocks, whose weights are gathered in turn
            for block in layers:
                fully_shard(block, mesh=mesh)
            break
    fully_shard(model, mesh=mesh)
