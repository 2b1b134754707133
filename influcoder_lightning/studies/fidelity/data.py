"""What the methods of one seed and state work on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.data.rows import Row
from influcoder_lightning.data.tokenization import TokenizedDataset
from influcoder_lightning.studies.fidelity.gradients import STORED_SCALE
from influcoder_lightning.studies.fidelity.method_rows import Board
from influcoder_lightning.studies.fidelity.states import AdamMoments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class FitGradients:
    """Unit gradients of the samples to learn from, on disk, queries first.

    Attributes:
        stored: [n, P] float16 memory map, unit rows times ``STORED_SCALE``.
        n_query: how many of the rows are queries.
    """

    stored: np.ndarray
    n_query: int

    def __len__(self) -> int:
        return len(self.stored)

    def block(self, rows: slice | np.ndarray, columns: slice = slice(None)) -> Tensor:
        """Float32 rows, or some of their columns."""
        part = np.asarray(self.stored[rows, columns], dtype=np.float32)
        return torch.from_numpy(part / np.float32(STORED_SCALE))


@dataclass
class StudyData:
    """Everything of one seed and state; gradients are [n, P] float32 in each sample's own unit.

    Attributes:
        board: takes the results.
        model: the PEFT model in its state.
        tokenizer: of the model.
        linears: the captured layers.
        texts: part name ("eval_pool", ...) -> rows of text.
        datasets: the same, tokenised.
        exact: part name -> gradients, for the parts of select and eval.
        fit: gradients to learn from.
        gradient_ms: CPU milliseconds of one exact gradient.
        moments: of AdamW in this state.
        store: folder of the run in which towers were co-trained, or None.
        seed: of everything random.
    """

    board: Board
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    linears: list[LoraLinear]
    texts: dict[str, list[Row]]
    datasets: dict[str, TokenizedDataset]
    exact: dict[str, np.ndarray]
    fit: FitGradients
    gradient_ms: float
    moments: AdamMoments
    store: Path | None
    seed: int

    @property
    def fit_texts(self) -> list[Row]:
        """Texts in the order of `fit`."""
        return [*self.texts["fit_query"], *self.texts["fit_pool"]]

    @property
    def size(self) -> int:
        """Numbers of an uncompressed gradient."""
        return sum(linear.numel for linear in self.linears)
