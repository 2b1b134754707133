"""Only the last blocks' gradients: a forward pass and the short end of a backward pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from influcoder_lightning.capture.layers import LoraLinear, find_lora_linears
from influcoder_lightning.errors import CaptureError

_INDEX = re.compile(r"\.(\d+)\.")


@contextmanager
def late_blocks(model: nn.Module, n_blocks: int) -> Iterator[list[LoraLinear]]:
    """The LoRA linears of the last ``n_blocks`` blocks; the others do not require a gradient.

    Autograd then records nothing before these blocks, so that forward and backward together cost
    little more than the forward pass. `requires_grad` is put back afterwards.

    Raises:
        CaptureError: the layers' names hold no block number, or there are fewer blocks.
    """
    linears = find_lora_linears(model)
    late = in_late_blocks(linears, n_blocks)
    early = [linear for linear, keep in zip(linears, late, strict=True) if not keep]
    try:
        for linear in early:
            linear.weight.requires_grad_(False)
        yield find_lora_linears(model)
    finally:
        for linear in early:
            linear.weight.requires_grad_(True)


def in_late_blocks(linears: list[LoraLinear], n_blocks: int) -> list[bool]:
    """Which linears lie in the last ``n_blocks`` blocks.

    Raises:
        CaptureError: the layers' names hold no block number, or there are fewer blocks.
    """
    found = [_INDEX.search(linear.name) for linear in linears]
    if None in found:
        name = linears[found.index(None)].name
        raise CaptureError(
            f"`{name}` has no block number in its name, so that its depth is unknown: the forward "
            "tower needs a LoRA on the blocks of the model only."
        )
    numbers = [int(match[1]) for match in found if match is not None]
    blocks = sorted(set(numbers))
    if not 1 <= n_blocks <= len(blocks):
        raise CaptureError(f"n_blocks={n_blocks}: the LoRA covers {len(blocks)} blocks.")
    return [number >= blocks[-n_blocks] for number in numbers]
