"""The learning rate of the captured weights."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from influcoder_lightning.capture.layers import LoraLinear


def rate_shares(trainer: Trainer, linears: list[LoraLinear]) -> dict[int, float]:
    """Share of the captured weights in each parameter group of the optimizer.

    Raises:
        MisconfigurationException: some captured weights are in none.
    """
    sizes = {id(linear.weight): linear.numel for linear in linears}
    shares: dict[int, float] = {}
    for index, group in enumerate(trainer.optimizers[0].param_groups):
        owned = sum(sizes.get(id(p), 0) for p in group["params"])
        if owned:
            shares[index] = owned / sum(sizes.values())
    if sum(shares.values()) < 1 - 1e-9:
        raise MisconfigurationException(
            "some trainable LoRA weights are not in the optimizer: they have gradients but never "
            "change. Pass all trainable parameters to the optimizer, or freeze those weights."
        )
    return shares


def mean_rate(trainer: Trainer, shares: dict[int, float]) -> float:
    """Learning rate that the next step will use, averaged over the captured weights."""
    groups = trainer.optimizers[0].param_groups
    return sum(share * float(groups[index]["lr"]) for index, share in shares.items())
