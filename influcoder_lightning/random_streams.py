"""Random numbers of our own, without a trace in those of the training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def streams_kept() -> Iterator[None]:
    """The global random streams of torch, of its CUDA devices, of NumPy and of Python are
    afterwards where they were; `torch.Generator`s of the user's own are not touched."""
    python = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002 - the stream that others draw from
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
