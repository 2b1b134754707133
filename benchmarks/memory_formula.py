"""What memory capture takes, term by term, without running anything; `memory.py` checks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import shapes
import torch

from influcoder_lightning import InfluenceCallback
from influcoder_lightning.capture.losses import _BLOCK_NUMBERS
from influcoder_lightning.encoder.cotraining import FIT_ROWS
from influcoder_lightning.projection.countsketch import few_blocks
from influcoder_lightning.store.segments import _MOST_BYTES
from influcoder_lightning.valuation.valuation import BUFFER_BYTES

# Resident memory alone, measured: code of torch and HDF5 that a training does not touch by itself.
LIBRARIES = 8 * 2**20


@dataclass(frozen=True)
class Setting:
    """One run; ``shape`` is a name, a folder, or the sizes of a Llama."""

    shape: Any = (128, 512, 4, 4, 4, 1000)
    batch: int = 16
    tokens: int = 64
    rank: int = 8
    steps: int = 4
    sketch_dim: int = 8192
    code_dim: int = 512
    co_train: bool = False
    keep_sketches: bool = False
    segment_rows: int = 2048

    def build(self, device: str, dtype: str) -> Any:
        """The model."""
        shape = shapes.llama(*self.shape) if isinstance(self.shape, tuple) else self.shape
        return shapes.build(shape, device=device, dtype=dtype, rank=self.rank)

    def callback(self, folder: str) -> InfluenceCallback:
        """The callback."""
        names = ("sketch_dim", "code_dim", "co_train", "keep_sketches", "segment_rows")
        return InfluenceCallback(folder, **{name: getattr(self, name) for name in names})


def terms(setting: Setting, linears: list[Any], vocabulary: int, dtype: str) -> dict[str, Any]:
    """The formula: bytes that capture keeps from step to step, and bytes it needs for a moment.

    Args:
        setting: of the run.
        linears: the LoRA linears, with ``name`` and ``numel``.
        vocabulary: V.
        dtype: of the logits.

    Returns:
        ``kept`` and ``moments``, by name. On a GPU only "sign tables" and the moments of the
        backward pass and of the losses are in its memory; the rest is in main memory.
    """
    s = setting
    row, n_rows = 4 * s.sketch_dim, s.batch * (s.steps - 1)  # rows from before the last step
    basis = row * s.code_dim
    merged = n_rows // FIT_ROWS * FIT_ROWS if s.co_train else 0
    old, new = (min(max(n, 0), s.code_dim) for n in (merged - FIT_ROWS, merged))
    if s.co_train:
        waiting = row * min(n_rows, max(FIT_ROWS, BUFFER_BYTES // row))
    else:
        kept_row = 8 + 2 * s.code_dim + row * s.keep_sketches
        waiting = kept_row * min(n_rows, s.segment_rows, _MOST_BYTES // kept_row)
    sketches = s.batch * row
    # A merge holds: its rows as they came, as one block and at unit length, these below the old
    # directions, the new directions before and after scaling, and two square matrices of float64.
    merge = row * (3 * FIT_ROWS + old + 2 * new) + 16 * (FIT_ROWS + old) ** 2
    return {
        "kept": {
            "sign tables": 4 * sum(x.numel for x in linears),
            "tower": basis + row * new,
            "rows": waiting,
            # One layer's rows: memory that every layer uses in turn.
            "layer": 4 * s.batch * max(x.numel for x in linears),
        },
        "moments": {
            # The random matrix, and as it is saved, in float16.
            "start": 0 if s.co_train else basis + basis // 2,
            # A few tokens' log-probabilities in float32, and their logits if they were not.
            "losses": 4
            * min(s.batch * s.tokens * vocabulary, _BLOCK_NUMBERS["cpu"])
            * (1 if dtype == "float32" else 2),
            **{x.name: sketches + _scattered(x, s) for x in linears},
            # Codes before and after scaling, beside the sketches.
            "hand on": sketches + 8 * s.batch * s.code_dim,
            "merge": merge if merged else 0,
        },
    }


def _scattered(linear: Any, setting: Setting) -> int:
    """Bytes for signed rows and places, where the sketch is too narrow for runs."""
    few = linear.numel <= few_blocks(torch.device("cpu")) * setting.sketch_dim
    return 0 if few else linear.numel * (4 * setting.batch + 8)


def expected(parts: dict[str, Any], plain: dict[str, float], device: str) -> float:
    """How far the peak rises: by all that is kept, and by a moment's need where that tops it.

    Args:
        parts: see `terms`.
        plain: of the training alone: its ``peak`` and its level at each moment.
        device: where memory is counted.
    """
    kept = parts["kept"]["sign tables"] if device == "cuda" else sum(parts["kept"].values())
    on_host = () if device == "cpu" else ("start", "hand on", "merge")
    tops = [
        plain.get(name, plain["step"]) + need + kept * (name != "start")
        for name, need in parts["moments"].items()
        if name not in on_host
    ]
    return max(plain["peak"] + kept, *tops) - plain["peak"]
