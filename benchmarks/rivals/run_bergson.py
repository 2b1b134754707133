"""bergson: a gradient index of a frozen model, exact or projected."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bergson import (
    GradientProcessor,
    IndexConfig,
    collect_gradients,
    load_gradients,
    load_module_gradients,
)
from bergson.utils.peft import detect_peft_modules
from datasets import Dataset
from torch import Tensor
from workload import BATCH, LENGTH, Cell, Tool, run


def prepare(tokens: Tensor) -> Dataset:
    """The columns it reads."""
    rows = tokens.tolist()
    return Dataset.from_dict({"input_ids": rows, "labels": rows, "length": [LENGTH] * len(rows)})


def features(model: Any, data: Any, folder: Path, width: int, target: str = "per_module") -> None:
    """To its memory-mapped index; ``width`` 0: unprojected."""
    config = IndexConfig(
        run_path=str(folder / "index"),
        projection_dim=width,
        projection_target=target,
        loss_reduction="sum",
    )
    config.partial_run_path.mkdir(parents=True)
    collect_gradients(
        model,
        data,
        GradientProcessor(projection_dim=width or None, projection_target=target),
        config,
        batches=[list(range(i, min(i + BATCH, len(data)))) for i in range(0, len(data), BATCH)],
        target_modules=detect_peft_modules(model),
    )


def index(folder: Path) -> Path:
    """Where it wrote (called this way, it leaves the name of an unfinished run)."""
    return next(path.parent for path in folder.rglob("gradients.bin"))


def exact_rows(folder: Path, n: int) -> dict[str, Tensor]:
    """Unprojected gradients by weight."""
    modules = load_module_gradients(index(folder))
    return {
        f"base_model.{name}.weight": torch.from_numpy(modules[name][:n].copy()) for name in modules
    }


def projected(folder: Path, n: int) -> Tensor:
    """[n, D]."""
    rows = load_gradients(index(folder))[:n]
    return torch.from_numpy(rows.copy()).float()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    cells = {
        "exact": Cell(partial(features, width=0), exact_rows),
        "projected 16x16 per module": Cell(partial(features, width=16), projected),
        "projected 4096": Cell(partial(features, width=4096, target="global"), projected),
    }
    run(Tool("bergson", prepare, cells))
