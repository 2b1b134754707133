"""`rds`: are the model's hidden states on the sample like those on the queries?

    score(z) = mean over queries q: cos(h(z), h(q)),    h(x) = sum_i i s_i / sum_i i

over the last layer's hidden states s_1, s_2, ... of prompt and response: RDS+ of Ivison et al.
2025, "Large-scale data selection for instruction tuning" (arXiv 2503.01807).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.capture.features import evaluating
from influcoder_lightning.capture.forward import model_inputs
from influcoder_lightning.data.encoders import default_template
from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.data.template import Template
from influcoder_lightning.data.tokenization import (
    TokenizedDataset,
    collate_samples,
    tokenize_rows,
)
from influcoder_lightning.devices import moved
from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import unit_rows
from influcoder_lightning.influence.text_scores import rank_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@register(
    "rds",
    needs={"model", "text", "queries"},
    says="Similarity of the model's hidden states; a baseline.",
)
def rds(
    request: Request,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    template: Template | str | None = None,
    max_length: int = 512,
    batch_size: int = 16,
) -> Ranking:
    """Mean cosine of position-weighted hidden states.

    Args:
        request: with data, queries and a causal LM as model.
        tokenizer: of the model, with a pad token.
        template: frame around prompt and response; None: the recipes' instruction frame.
        max_length: tokens per sample; the prompt loses its head beyond it.
        batch_size: samples per forward pass.

    Raises:
        RankingError: no model, tokenizer or text.
    """
    if request.model is None or tokenizer is None:
        raise RankingError(
            "method 'rds' runs the model: pass model=<causal LM> and tokenizer=<its tokenizer>"
        )
    ids, rows = request.data_rows()
    query_ids, queries = request.query_rows()
    frame = template or default_template(tokenizer)

    def embed(texts: Sequence[TextRow]) -> NDArray[np.float32]:
        dataset = tokenize_rows(texts, tokenizer, frame, max_length, list(range(len(texts))))
        return unit_rows(hidden_states(request.model, dataset, tokenizer.pad_token_id, batch_size))

    asked = embed(queries)
    return rank_text(
        ids, query_ids, lambda block: embed(rows[block]) @ asked.T, block_rows=16 * batch_size
    )


def hidden_states(
    model: nn.Module, dataset: TokenizedDataset, pad_token_id: int | None, batch_size: int
) -> NDArray[np.float32]:
    """Position-weighted means [n, h] float32 of the last layer's hidden states."""
    device = next(model.parameters()).device
    parts = []
    collate = collate_samples(pad_token_id)
    with evaluating(model), torch.inference_mode():
        for start in range(0, len(dataset), batch_size):
            stop = min(start + batch_size, len(dataset))
            batch = moved(collate([dataset[i] for i in range(start, stop)]), device)
            inputs = model_inputs(model, BatchReader().read(batch))
            output = model(**inputs, output_hidden_states=True, use_cache=False)
            mask = batch["attention_mask"]
            weights = (mask.cumsum(1) * mask).float()
            weights = weights / weights.sum(1, keepdim=True)
            states = output.hidden_states[-1].float()
            parts.append(torch.einsum("bt,bth->bh", weights, states).cpu().numpy())
    return np.concatenate(parts)
