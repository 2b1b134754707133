"""The work for which a tool scores samples, and how its result is handed back.

A work folder holds ``work.json`` (the base model, the adapters of one fine-tuning run in order, the
batch size) and ``tokens.json`` (the samples of the pool and the queries, and the pad token). A tool
writes float32 scores [n_query, n_pool], higher where training on the sample lowers the query's loss
more, and prints one line of JSON. Needs torch and numpy only: each tool runs it in an environment
of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
Sample = dict[str, list[int]]


@dataclass(frozen=True)
class Work:
    """What is to be scored.

    Attributes:
        model: folder of the base causal LM.
        adapters: folders of the LoRA's checkpoints; the last one is the end of training.
        batch_size: samples per batch.
        pool: samples that were trained on: ``input_ids`` and ``labels``, -100 on the prompt.
        query: samples whose loss is of interest.
        pad_token_id: pads batches on the right.
    """

    model: Path
    adapters: list[Path]
    batch_size: int
    pool: list[Sample]
    query: list[Sample]
    pad_token_id: int

    @property
    def adapter(self) -> Path:
        """The end of training."""
        return self.adapters[-1]

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(len(sample["input_ids"]) for sample in [*self.pool, *self.query])


@dataclass(frozen=True)
class Scored:
    """What a method gives back.

    Attributes:
        scores: [n_query, n_pool].
        kept: files that remain of the pool; what does not grow with it goes to ``factors``.
        factors: files of curvature factors.
    """

    scores: Tensor
    kept: list[Path]
    factors: list[Path]


Method = Callable[[Work, Path], Scored]


def read_work(folder: Path) -> Work:
    """The work in a folder."""
    work = json.loads((folder / "work.json").read_text())
    tokens = json.loads((folder / "tokens.json").read_text())
    return Work(
        model=Path(work["model"]),
        adapters=[Path(adapter) for adapter in work["adapters"]],
        batch_size=work["batch_size"],
        pool=tokens["pool"],
        query=tokens["query"],
        pad_token_id=tokens["pad_token_id"],
    )


def padded(samples: list[Sample], pad_token_id: int) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels`` [B, T] of samples, padded on the right."""
    width = max(len(sample["input_ids"]) for sample in samples)

    def column(rows: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows])

    return {
        "input_ids": column([sample["input_ids"] for sample in samples], pad_token_id),
        "attention_mask": column([[1] * len(sample["input_ids"]) for sample in samples], 0),
        "labels": column([sample["labels"] for sample in samples], IGNORED),
    }


def main(package: str, methods: Mapping[str, Method]) -> None:
    """Run the method that the command line names, write its scores, print the line of JSON.

    Timed is everything from tokens in memory and model folders on disk to finished scores: loading
    of the model, factors, gradients, scores. Imports are not. What the tool itself prints goes to
    stderr.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=methods)
    parser.add_argument("--work", type=Path, required=True, help="folder that holds work.json")
    parser.add_argument("--out", type=Path, required=True, help="the .npy file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    work = read_work(options.work)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        cpu, wall = _cpu(), perf_counter()
        result = methods[options.method](work, Path(folder))
        cpu, wall = _cpu() - cpu, perf_counter() - wall
        n_bytes, n_factor_bytes = _size(result.kept), _size(result.factors)
    scores = result.scores.float().numpy()
    _check(scores, work)
    np.save(options.out, scores)
    line: dict[str, Any] = {
        "name": f"{package} {options.method}",
        "package": package,
        "version": version(package),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "seconds": round(cpu, 2),
        "wall_seconds": round(wall, 2),
        "bytes_per_sample": round(n_bytes / len(work.pool)),
        "factor_bytes": n_factor_bytes,
    }
    print(json.dumps(line), flush=True)


def _cpu() -> float:
    """CPU seconds so far, of all threads and of child processes that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime


def _size(paths: list[Path]) -> int:
    files = {file for path in paths for file in [path, *path.rglob("*")] if file.is_file()}
    return sum(file.stat().st_size for file in files)


def _check(scores: np.ndarray, work: Work) -> None:
    expected = (len(work.query), len(work.pool))
    if scores.shape != expected:
        raise RuntimeError(f"scores have shape {scores.shape}, not {expected}")
    if not np.isfinite(scores).all():
        raise RuntimeError(f"{int((~np.isfinite(scores)).sum())} scores are not finite")
