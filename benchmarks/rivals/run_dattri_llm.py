"""dattri-llm: per-sample gradients of a loop over a frozen model, exact, one file per batch."""

from pathlib import Path
from typing import Any

from dattri_llm import GradientStorageManager, HookManager, HookManagerConfig, OffloadCallback
from torch import Tensor
from workload import Cell, Tool, plain_pass, run

LORA = [r"\.lora_[AB]\."]


def features(model: Any, tokens: Tensor, folder: Path) -> None:
    """To its files, gradients as matrices (faster on LoRA than its default, factors)."""
    offload = OffloadCallback(
        1, GradientStorageManager(str(folder)), recording_type="per_batch", async_write=False
    )
    config = HookManagerConfig(linear_io=LORA, capture_style="materialized")
    with HookManager(model, config=config, callbacks=[offload]).collect(deregister_on_exit=True):
        plain_pass(model, tokens)


def rows(folder: Path, n: int) -> dict[str, Tensor]:
    """Gradients by weight, of the first file."""
    storage = GradientStorageManager(str(folder))
    entries = next(iter(storage.index.values()))
    (record,) = storage.load_records(entries[0]["file"])
    return {f"{name}.weight": grads[:n].float() for name, grads in record.gradient.data.items()}


if __name__ == "__main__":
    run(Tool("dattri-llm", lambda tokens: tokens, {"exact": Cell(features, rows)}))
