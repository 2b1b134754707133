"""A compiled ranking read back: the score of any batch of tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import read_whole
from influcoder_lightning.finetune.saved_adapter import WEIGHTS
from influcoder_lightning.pair.direction import lora_weights
from influcoder_lightning.pair.folders import MINUS, PLUS
from influcoder_lightning.pair.norm_model import NormModel
from influcoder_lightning.pair.scores import AdapterPair, scaled
from influcoder_lightning.tensors import read_tensors

SCORE = "score.json"
_MOST_BYTES = 2**24


class PairScorer:
    """Scores by the two adapters of a folder that `recipe=compile` wrote.

    Args:
        model: PEFT model with the adapter ``plus`` of the folder.
        folder: with ``plus``, ``minus`` and ``score.json``.

    Raises:
        ConfigError: a file is missing or damaged.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        self.content = read_score(folder)
        self.method = str(self.content["method"])
        norm = self.content["norm"]
        self._norms = None if norm is None else NormModel(**norm)
        step = float(self.content["step"])
        ends = [_weights(folder / name / WEIGHTS) for name in (PLUS, MINUS)]
        home, direction = {}, {}
        for name, weight in lora_weights(model).items():
            plus, minus = (_of(end, name, weight) for end in ends)
            home[name] = (plus + minus) / 2
            direction[name] = (plus - minus) / (2 * step)
        with torch.no_grad():
            for name, weight in lora_weights(model).items():
                weight.copy_(home[name].to(weight.dtype))
        self._pair = AdapterPair(model, direction, step)

    def scores(self, batch: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores [B] of a batch, and each target's share of them [B, T - 1]."""
        return scaled(self._pair.slopes(batch), self._norms)


def read_score(folder: Path) -> dict[str, Any]:
    """The content of ``score.json``: numbers are numbers, and finite.

    Raises:
        ConfigError: it is missing or damaged.
    """
    path = folder / SCORE
    try:
        content = json.loads(read_whole(path, _MOST_BYTES))
        step, norm = content["step"], content["norm"]
        if not _finite(step) or step <= 0:
            raise ValueError(f"step={step!r:.40} is no positive number")
        if norm is not None and (set(norm) != _NORM or not all(map(_finite, norm.values()))):
            raise ValueError("norm is no model of norms")
        if not isinstance(content["method"], str):
            raise ValueError("method is no text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error!r:.200}); give the folder that recipe=compile wrote."
        ) from error
    found: dict[str, Any] = content
    return found


_NORM = {"constant", "loss", "tokens", "agreement"}


def _finite(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]  # it is a number


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error!s:.200}); compile again.") from error


def _of(end: Mapping[str, Tensor], name: str, weight: Tensor) -> Tensor:
    """A weight of an adapter, whose file knows no names of adapters."""
    own = name.replace(".default.", ".")
    found = end.get(own)
    if found is None:
        found = end.get(f"base_model.model.{own}")
    if found is None or found.shape != weight.shape:
        raise ConfigError(f"the adapters have no {own} of shape {tuple(weight.shape)}.")
    return found.to(weight.device).float()
