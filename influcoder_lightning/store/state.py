"""What a checkpoint needs beside the store: JSON values, tensors, weights of the text encoder.

One folder per checkpoint and process, ``state/NNNNNNNN/rank_NNNNN/``, written under a temporary
name and renamed; nothing in it is ever unpickled (``weights_only``). The checkpoint itself holds
the folder's name and a hash.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from influcoder_lightning.durable import sha256, sync
from influcoder_lightning.errors import StoreError

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
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / _VALUES).write_text(json.dumps(values))
    save_file({name: value.contiguous() for name, value in tensors.items()}, part / _TENSORS)
    if weights is not None:
        torch.save(dict(weights), part / _WEIGHTS)
    for path in part.iterdir():
        sync(path)
    digest = _digest(part)
    part.rename(folder)
    sync(folder.parent)
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
        # Copies: mapped tensors lie at odd addresses, where BLAS may round differently.
        tensors = {name: value.clone() for name, value in load_file(folder / _TENSORS).items()}
        path = folder / _WEIGHTS
        weights = torch.load(path, weights_only=True) if path.exists() else None
    except Exception as error:
        raise StoreError(f"the state in {folder} is damaged: {error}.") from error
    return values, tensors, weights


def _digest(folder: Path) -> str:
    lines = [f"{path.name} {sha256(path)}" for path in sorted(folder.iterdir())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
