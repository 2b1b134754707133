"""Passes of our own through a user's model, after which it is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from influcoder_lightning.errors import CaptureError

_COPIED_BYTES = 64 * 2**20  # a larger buffer holds packed weights, which no forward changes


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """``module`` in eval mode; modes, buffers and autocast's cache are afterwards as before.

    Random streams are the caller's: eval mode does not stop a router's counters or running means,
    but it draws nothing by itself.

    Raises:
        CaptureError: a buffer too large to be copied was changed.
    """
    modes = {part: part.training for part in module.modules()}
    buffers = _Buffers(module)
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    module.eval()
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        for part, training in modes.items():
            part.training = training
        buffers.restore()


class _Buffers:
    """What the buffers of a module hold now."""

    def __init__(self, module: nn.Module) -> None:
        self._found: list[tuple[dict[str, Tensor | None], str, Tensor, Tensor | None, int]] = []
        for part in module.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None and not buffer.is_inference():
                    large = buffer.numel() * buffer.element_size() > _COPIED_BYTES
                    copied = None if large else buffer.detach().clone()
                    self._found.append((part._buffers, name, buffer, copied, buffer._version))

    def restore(self) -> None:
        """Put the same tensors back, with the values they had."""
        for holder, name, buffer, copied, version in self._found:
            holder[name] = buffer
            if buffer._version == version:
                continue
            if copied is None:
                raise CaptureError(
                    f"buffer `{name}` ({buffer.numel()} numbers) is changed by a forward pass in "
                    "eval mode and is too large to be put back. Value the data with "
                    "`extract_features`."
                )
            with torch.no_grad():
                buffer.copy_(copied)
