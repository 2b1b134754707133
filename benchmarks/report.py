"""What the benchmarks share: cost, environment, results on disk."""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from influcoder_lightning.valuation.valuation import library_versions

RESULTS = Path(__file__).parent / "results"


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Wall and CPU seconds of a block, and the peak memory of the process so far."""
    cost: dict[str, float] = {}
    wall, cpu = perf_counter(), process_time()
    yield cost
    cost["seconds"] = perf_counter() - wall
    cost["cpu_seconds"] = process_time() - cpu
    cost["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    return {
        "versions": library_versions(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def cached(path: Path, compute: Callable[[], Any]) -> Any:
    """The result in ``path``, computed first if it is not there yet."""
    if not path.exists():
        write(path, compute())
    return json.loads(path.read_text())


def write(path: Path, result: Any) -> None:
    """Write a result whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(part, path)
