"""What a checkpoint needs beside the store: JSON values, tensors, weights of the text encoder.

One folder per checkpoint and process, ``state/NNNNNNNN/rank_NNNNN/``: written under a temporary
name, synced, renamed, and only then named by the checkpoint, with its hash; it never changes.
Nothing in it is ever unpickled (``weights_only``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from influcoder_lightning.errors import StoreError
from influcoder_lightning.files import disk_errors, durable_tree, sha256, write_new
from influcoder_lightning.store.failing_disk import Output
from influcoder_lightning.tensors import read_tensors, tensor_blocks

_VALUES, _TENSORS, _WEIGHTS = "values.json", "tensors.safetensors", "text_encoder.pt"


def write_state(
    folder: Path,
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Any] | None,
) -> str:
    """Write a state and return its hash.

    Args:
        folder: must not exist yet.
        values: as JSON.
        tensors: by name.
        weights: state dicts of the text encoder and its optimizer, or None.

    Raises:
        StoreError: the disk does not take it.
    """
    hint = "Every sealed row is safe, but no run can go on from here: make room."
    with disk_errors(f"the state {folder}", hint), durable_tree(folder) as part:
        write_new(part / _VALUES, [json.dumps(values).encode()])
        write_new(part / _TENSORS, tensor_blocks(tensors))
        if weights is not None:
            with Output(part / _WEIGHTS) as output, output.checked():
                torch.save(dict(weights), cast(IO[bytes], output))
        digest = _digest(part)
    return digest


def read_state(
    folder: Path, digest: str
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any] | None]:
    """Values, tensors and weights of a state.

    Raises:
        StoreError: it is missing, or not what was written.
    """
    if not folder.is_dir():
        raise StoreError(
            f"the state of this checkpoint is gone: no folder {folder}. Only the newest states "
            "stay (`keep_states`); resume from a newer checkpoint, or start in another folder."
        )
    try:
        if _digest(folder) != digest:
            raise ValueError("its hash is not the one in the checkpoint")
        values = json.loads((folder / _VALUES).read_text())
        tensors = read_tensors(folder / _TENSORS)
        path = folder / _WEIGHTS
        weights = torch.load(path, weights_only=True) if path.exists() else None
    except Exception as error:
        raise StoreError(f"the state in {folder} is damaged: {error}.") from error
    return values, tensors, weights


def _digest(folder: Path) -> str:
    lines = [f"{path.name} {sha256(path)}" for path in sorted(folder.iterdir())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
