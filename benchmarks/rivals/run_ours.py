"""Influcoder Lightning: a frozen model's rows, exact, sketched, or as codes."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from workload import BATCH, Cell, Tool, run

from influcoder_lightning import (
    InfluenceStore,
    collate_with_sample_ids,
    extract_features,
    with_sample_ids,
)


def prepare(tokens: Tensor) -> Any:
    """A dataloader over rows in memory."""
    rows = with_sample_ids([{"input_ids": row, "labels": row.clone()} for row in tokens])
    return DataLoader(rows, batch_size=BATCH, collate_fn=collate_with_sample_ids())


def features(model: Any, data: Any, folder: Path, **options: Any) -> None:
    """To a merged, sealed store."""
    extract_features(model, data, folder, show_progress=False, **options)


def exact_rows(folder: Path, n: int) -> dict[str, Tensor]:
    """Unprojected gradients by weight."""
    store = InfluenceStore(folder)
    rows = torch.from_numpy(store.sketches(slice(0, n)))
    return {
        layer.name: rows[:, layer.offset : layer.offset + layer.out_features * layer.in_features]
        for layer in store.layers.itertuples()
    }


def sketches(folder: Path, n: int) -> Tensor:
    """[n, D]."""
    return torch.from_numpy(InfluenceStore(folder).sketches(slice(0, n)))


def codes(folder: Path, n: int) -> Tensor:
    """[n, d]."""
    return torch.from_numpy(InfluenceStore(folder).codes(slice(0, n)))


if __name__ == "__main__":
    kept = {"keep_sketches": True, "co_train": False}
    cells = {
        "exact": Cell(partial(features, projector="identity", code_dim=16, **kept), exact_rows),
        "sketch 8192": Cell(partial(features, sketch_dim=8192, **kept), sketches),
        "codes": Cell(features, codes),
    }
    run(Tool("influcoder-lightning", prepare, cells, reduction="mean"))
