"""The work that every tool is given, and how it is timed and checked.

Needs torch, transformers and peft only: each tool runs it in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, LENGTH, BATCH = 1000, 64, 16
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARM, CHECKED = 4 * BATCH, 8

Rows = dict[str, Tensor] | Tensor


@dataclass
class Cell:
    """One thing a tool can do.

    Attributes:
        features: ``(model, data, folder)``: everything from a built model and data in memory to
            files that are complete. This is what is timed.
        read: ``(folder, n)`` -> the first n samples' rows: by weight name where they are exact,
            else [n, D], which are compared through their cosines. None: nothing to check.
    """

    features: Callable[[Any, Any, Path], object]
    read: Callable[[Path, int], Rows] | None = None


@dataclass
class Tool:
    """A tool, the form in which it takes its data, and what it can do.

    Attributes:
        package: whose version is reported.
        prepare: ``tokens`` [N, T] -> its data; not timed.
        cells: by name.
        reduction: of the loss whose gradients it gives, over a sample's tokens.
    """

    package: str
    prepare: Callable[[Tensor], Any]
    cells: dict[str, Cell] = field(default_factory=dict)
    reduction: str = "sum"


def build_model() -> Any:
    """A random tiny Llama in eval mode with LoRA (r 8) on all 28 linears of its layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        attn_implementation="eager",
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config).float(), lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would make every gradient of lora_A zero
            torch.nn.init.normal_(weight, std=0.02)
    return model.eval()


def random_tokens(n: int) -> Tensor:
    """[n, T] token ids."""
    return torch.randint(VOCABULARY, (n, LENGTH), generator=torch.Generator().manual_seed(1))


def batch_loss(model: Any, tokens: Tensor, reduction: str = "sum") -> Tensor:
    """Next-token cross-entropy of a batch."""
    logits = model(input_ids=tokens).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)


def plain_pass(model: Any, tokens: Tensor, _: Path | None = None) -> None:
    """Forward and backward of every batch, as training does them; keeps nothing."""
    for batch in tokens.split(BATCH):
        batch_loss(model, batch).backward()
        model.zero_grad(set_to_none=True)


def run(tool: Tool) -> None:
    """Time the cell named on the command line and print one line of JSON.

    The plain pass is timed in the same process, before and after: a ratio to it is then free of
    what differs between environments and between moments of a shared machine.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("cell", choices=tool.cells)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--work", type=Path, default=None, help="where features go for a moment")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cell, model, tokens = tool.cells[options.cell], build_model(), random_tokens(options.samples)
    data, few = tool.prepare(tokens), tool.prepare(tokens[:WARM])
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        folder = Path(work) / "features"
        plain_pass(model, tokens[:WARM])
        cell.features(model, few, Path(work) / "warm_up")
        plain = [_cost(lambda: plain_pass(model, tokens))]
        cpu, wall = _cost(lambda: cell.features(model, data, folder))
        plain.append(_cost(lambda: plain_pass(model, tokens)))
        n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        checks = {} if cell.read is None else _checks(tool, cell.read(folder, CHECKED))
    per_sample = 1000 / options.samples
    line = {
        "cell": options.cell,
        "version": version(tool.package),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "cpu_ms": cpu * per_sample,
        "wall_ms": wall * per_sample,
        "plain_cpu_ms": sum(c for c, _ in plain) / 2 * per_sample,
        "mib_on_disk": n_bytes / 2**20,
        **checks,
    }
    print(json.dumps(line), flush=True)


def _cost(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds, of all threads and of child processes that ended, and wall seconds."""
    start, wall = _cpu(), perf_counter()
    work()
    return _cpu() - start, perf_counter() - wall


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime


def _checks(tool: Tool, rows: Rows) -> dict[str, float]:
    """Largest relative error per weight of exact rows; of others, the largest error of a cosine."""
    exact = _one_by_one(tool.reduction)
    if isinstance(rows, dict):
        if rows.keys() != exact.keys():
            raise RuntimeError(f"weights differ: {sorted(rows.keys() ^ exact.keys())[:4]}")
        errors = [
            (rows[name].reshape(true.shape) - true).norm() / true.norm()
            for name, true in exact.items()
        ]
        return {"max_relative_error": float(torch.stack(errors).max())}
    flat = torch.cat([true.flatten(1) for true in exact.values()], 1)
    return {"max_cosine_error": float((_cosines(rows) - _cosines(flat)).abs().max())}


def _cosines(rows: Tensor) -> Tensor:
    return cosine_similarity(rows[:, None].double(), rows[None].double(), dim=2)


def _one_by_one(reduction: str) -> dict[str, Tensor]:
    """Exact gradients of the first samples: a batch of one and autograd, for each."""
    model = build_model()
    names, weights = zip(
        *((name, w) for name, w in model.named_parameters() if w.requires_grad), strict=True
    )
    rows = [
        torch.autograd.grad(batch_loss(model, sample[None], reduction), weights)
        for sample in random_tokens(WARM)[:CHECKED]
    ]
    return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(names)}
