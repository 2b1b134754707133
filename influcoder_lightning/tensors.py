"""Tensors to a safetensors file, from where they lie in memory.

The library's own writer reports a full disk as a mistake of the format, and bypasses the operations
that the rest of the package writes with. The format is its own: the size of the header, the header
(JSON, padded to 8 bytes), the tensors one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from influcoder_lightning.files import Bytes

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def tensor_blocks(tensors: Mapping[str, Tensor]) -> Iterator[Bytes]:
    """The bytes of a safetensors file with these tensors, a tensor at a time.

    Args:
        tensors: by name, of real or boolean numbers.
    """
    # Wide numbers first: each tensor then starts where its numbers may be mapped.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, start = dict[str, Any](), 0
    for name, tensor in ordered:
        stop = start + tensor.numel() * tensor.element_size()
        kind = _NAMES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        if tensor.numel():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data
