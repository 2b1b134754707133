"""`icp`: does the sample help the model to answer the queries as a one-shot demonstration?

    share(z) = share of queries q with  l(q | z) > l(q);     gain(z) = mean over q: l(q | z) - l(q)

with l the mean log-likelihood per token of q's answer, with the sample in front and without. In-
context probing: arXiv 2407.12259. It needs a model and text, and no gradients.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.text_scores import rank_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCORES = ("share", "gain")


@register(
    "icp",
    needs={"model", "text", "queries"},
    says="Share of queries whose answer the sample makes more likely as a one-shot demonstration.",
)
def icp(
    request: Request,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    score: str = "share",
    **options: Any,
) -> Ranking:
    """Share of queries that a demonstration helps, or its mean gain in nats per answer token.

    Args:
        request: with data, queries and a causal LM as model.
        tokenizer: of the model.
        score: "share" or "gain"; `Ranking.per_query` holds 0 and 1, or the gains.
        **options: of `influence.probing.prober.InContextProber`: template, separator,
            max_length, batch_tokens.

    Raises:
        RankingError: no model, tokenizer or text, or an unknown score.
    """
    from influcoder_lightning.influence.probing.prober import InContextProber

    check_score(score)
    if request.model is None or tokenizer is None:
        raise RankingError(
            "method 'icp' runs the model: pass model=<causal LM> and tokenizer=<its tokenizer>"
        )
    ids, rows = request.data_rows()
    query_ids, queries = request.query_rows()
    prober = InContextProber(request.model, tokenizer, queries, **options)
    one_shot = np.stack([prober.one_shot(row) for row in rows])
    ranking = icp_ranking(ids, query_ids, prober.zero_shot(), one_shot, score)
    ranking.metadata["cuts"] = asdict(prober.prompts.cuts)
    return ranking


def icp_ranking(
    ids: IdArray,
    query_ids: IdArray,
    zero_shot: NDArray[np.float64],
    one_shot: NDArray[np.float64],
    score: str = "share",
) -> Ranking:
    """The ranking from mean log-likelihoods without [M] and with [N, M] demonstrations.

    Raises:
        RankingError: an unknown score.
    """
    check_score(score)
    gains = one_shot - zero_shot
    values = (gains > 0 if score == "share" else gains).astype(np.float32)
    ranking = rank_text(ids, query_ids, lambda block: values[block], block_rows=8192)
    ranking.metadata["score"] = score
    return ranking


def check_score(score: str) -> None:
    """Raise ``RankingError`` unless the score is "share" or "gain"."""
    if score not in SCORES:
        raise RankingError(f"icp has no score {score!r}; choose one of {', '.join(SCORES)}")
