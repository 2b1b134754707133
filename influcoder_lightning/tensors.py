"""Tensors to a safetensors file, from where they lie in memory, and back.

The library's own writer reports a full disk as a mistake of the format, and bypasses the operations
that the rest of the package writes with. The format is its own: the size of the header, the header
(JSON, padded to 8 bytes), the tensors one after the other. Its metadata have a CRC-32 of all that
the header says of the tensors, and of their bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
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
_CHECKSUM = "crc32"


def tensor_blocks(tensors: Mapping[str, Tensor]) -> Iterator[Bytes]:
    """The bytes of a safetensors file with these tensors, a tensor at a time.

    Args:
        tensors: by name, of real or boolean numbers.
    """
    header = _header(tensors)
    metadata = {_CHECKSUM: _checksum(header, tensors)}
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from _blocks(header, tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, held against their checksum, which those of 0.1 lack.

    Copies: mapped tensors lie at odd addresses, where BLAS may round differently.

    Raises:
        ValueError: they are not what was written.
        OSError, SafetensorError: it is no such file.
    """
    with safe_open(path, "pt") as file:
        checksum = (file.metadata() or {}).get(_CHECKSUM)
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if checksum is not None and checksum != _checksum(_header(tensors), tensors):
        raise ValueError("its checksum is not that of its tensors")
    return tensors


def _header(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    # Wide numbers first: each tensor then starts where its numbers may be mapped.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, start = dict[str, Any](), 0
    for name, tensor in ordered:
        stop = start + tensor.numel() * tensor.element_size()
        kind = _NAMES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    return header


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    value = zlib.crc32(json.dumps(header).encode())
    for block in _blocks(header, tensors):
        value = zlib.crc32(block, value)
    return f"{value:08x}"


def _blocks(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[Bytes]:
    for name in header:
        if tensors[name].numel():
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data
