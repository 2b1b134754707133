"""Exact gradients of a set of samples, and what can be made of them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import process_time

import numpy as np
import torch
from torch import Tensor, nn

from influcoder_lightning.capture.features import evaluating, feature_rows
from influcoder_lightning.capture.forward import causal_lm_losses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.data.tokenization import TokenizedDataset, TokenizedRow, collate_samples
from influcoder_lightning.projection import Projector, build_projector

STORED_SCALE = 256.0  # keeps entries of unit gradients clear of float16's smallest numbers


def capture_exact(
    model: nn.Module,
    linears: Sequence[LoraLinear],
    dataset: TokenizedDataset | Sequence[TokenizedRow],
    pad_token_id: int,
    batch_size: int,
    keep: Callable[[np.ndarray, Tensor], None],
    show: Callable[[int], object] = lambda done: None,
) -> float:
    """Uncompressed gradients of every sample's own mean loss, batch by batch.

    Args:
        model: PEFT model.
        linears: the layers to capture.
        dataset: tokenised samples, each with a response token.
        pad_token_id: pads the batches.
        batch_size: samples per pass; samples of like length share one.
        keep: gets positions [b] in the dataset and gradients [b, P] float32.
        show: gets the number of samples done.

    Returns:
        CPU milliseconds per sample, without ``keep``.
    """
    local: list[LoraLinear] = []
    offset = 0
    for linear in linears:  # a selection of layers is numbered anew
        local.append(replace(linear, offset=offset))
        offset += linear.numel
    capture = GradientCapture(local, build_projector("identity", local, 0, 0), model=model)
    lengths = [len(dataset[i]["input_ids"]) for i in range(len(dataset))]
    order = np.argsort(lengths, kind="stable")
    collate = collate_samples(pad_token_id)
    seconds = 0.0
    capture.attach()
    try:
        with evaluating(model):
            for start in range(0, len(order), batch_size):
                positions = order[start : start + batch_size]
                batch = collate([dataset[int(i)] for i in positions])
                begun = process_time()
                rows = feature_rows(
                    capture,
                    batch,
                    [int(i) for i in positions],
                    batch["labels"],
                    lambda b: causal_lm_losses(model, b, "labels"),
                )
                seconds += process_time() - begun
                keep(positions, rows.sketch)
                show(start + len(positions))
    finally:
        capture.detach()
    return 1000 * seconds / len(dataset)


def project(projector: Projector, linears: Sequence[LoraLinear], gradients: Tensor) -> Tensor:
    """What a projector makes of uncompressed gradients [n, P]: [n, dim] float32."""
    sketch = torch.zeros((len(gradients), projector.dim), dtype=torch.float32)
    for linear in linears:
        columns = slice(linear.offset, linear.offset + linear.numel)
        projector.add(sketch, linear, gradients[:, columns].unflatten(1, linear.shape))
    return sketch


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows [n, d] float32 scaled to length 1 (zero rows stay zero)."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-12)).astype(np.float32)


def cosines(queries: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """[M, N] float32."""
    return unit(queries) @ unit(samples).T


def int8_rows(rows: np.ndarray) -> np.ndarray:
    """Rows rounded to int8 with one scale each, as numbers again: one byte per entry and two."""
    scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-12) / 127
    scale = scale.astype(np.float16).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float16).tiny)
    return np.asarray(np.clip(np.round(rows / scale), -127, 127) * scale)
