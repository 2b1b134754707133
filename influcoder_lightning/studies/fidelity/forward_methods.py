"""Methods that need a forward pass and the short end of a backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from influcoder_lightning.capture.late_blocks import in_late_blocks, late_blocks
from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.forward_tower import ForwardTower
from influcoder_lightning.studies.fidelity.data import StudyData
from influcoder_lightning.studies.fidelity.gradient_methods import Codes
from influcoder_lightning.studies.fidelity.gradients import capture_exact, cosines
from influcoder_lightning.studies.fidelity.method_rows import cpu_ms


def forward_scores(
    data: StudyData, rows: np.ndarray, texts: Sequence[TextRow], codes: Codes, n_blocks: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Scores [M, N], late cosines [M, N] and the tower's CPU ms per sample.

    Args:
        data: of the study.
        rows: positions in ``data.fit`` of the samples behind ``codes.fit``.
        texts: of these samples.
        codes: to map onto.
        n_blocks: blocks whose gradient is computed.
    """
    late = late_columns(data, n_blocks)
    seen = data.fit.block(rows, late).numpy()
    tower = ForwardTower.fit(seen, texts, codes.fit, data.tokenizer)
    samples = data.exact["eval_pool"][:, late]
    with cpu_ms(len(samples)) as cost:
        expected, _ = tower.expect(samples, data.texts["eval_pool"])
    direct = cosines(data.exact["eval_query"][:, late], samples)
    return codes.parts["eval_query"] @ expected.T, direct, cost[0]


def late_columns(data: StudyData, n_blocks: int) -> slice:
    """Columns of the gradient that belong to the last blocks."""
    keep = in_late_blocks(data.linears, n_blocks)
    return slice(data.linears[keep.index(True)].offset, data.size)


def late_ms(data: StudyData, n_blocks: int, batch_size: int, n_samples: int = 64) -> float:
    """CPU milliseconds per sample of the forward pass and the last blocks' backward pass."""
    dataset = data.datasets["eval_pool"]
    step = max(1, len(dataset) // n_samples)
    some = [dataset[i] for i in range(0, len(dataset), step)]

    def drop(_positions: np.ndarray, _gradients: Tensor) -> None:
        return None

    pad = data.tokenizer.pad_token_id
    with late_blocks(data.model, n_blocks) as linears:
        return capture_exact(data.model, linears, some, pad, batch_size, drop)
