"""`loss`: what did the model find hard?

    score(z) = mean over rows t of z: loss_t(z), the mean over response tokens in nats

Log-perplexity; rows whose loss is unknown do not count. A baseline: Marion et al. 2023, "When Less
is More", arXiv 2309.04564, compare perplexity with dearer scores for choosing data.
"""

from __future__ import annotations

import numpy as np

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request


@register(
    "loss",
    needs={"records"},
    says="The sample's own training loss; a baseline.",
)
def loss(request: Request) -> Ranking:
    """Mean loss of the rows, larger first; a sample whose rows all lack a loss gets NaN.

    Raises:
        RankingError: no row has a loss.
    """
    store = request.require_store()
    samples = SampleRows(store.sample_ids)
    values = store.column("loss").astype(np.float64)
    known = ~np.isnan(values)
    if not known.any():
        raise RankingError(
            f"method 'loss' needs the loss of the rows, and all {len(values)} in the store are "
            "unknown; take them with extract_features(model, dataloader, dirpath)"
        )
    scores = samples.mean(values, keep=known)
    return Ranking(
        samples.sample_ids,
        scores,
        metadata={
            "n_rows": len(values),
            "rows_without_loss": int(np.count_nonzero(~known)),
            "samples_without_loss": int(np.count_nonzero(np.isnan(scores))),
        },
    )
