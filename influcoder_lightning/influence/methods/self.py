"""`self`: how hard does a sample pull at all? Mislabelled and odd samples come first.

    score(z) = mean over rows t of z: |g_t(z)|^2

Source: Pruthi et al. 2020, arXiv 2002.08484, section 4 (self-influence without the learning rate).
"""

from __future__ import annotations

import numpy as np

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import first_few
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request


@register(
    "self",
    needs={"gradients"},
    says="Squared gradient norm: large for mislabelled and unusual samples; needs no queries.",
)
def self_influence(request: Request) -> Ranking:
    """Mean squared gradient norm, larger first.

    Raises:
        RankingError: a gradient norm that is not finite.
    """
    store = request.require_store()
    samples = SampleRows(store.sample_ids)
    norms = store.column("grad_norm").astype(np.float64)
    if not np.isfinite(norms).all():
        bad = store.sample_ids[~np.isfinite(norms)].tolist()
        raise RankingError(
            f"{len(bad)} rows have a gradient norm that is not finite, of samples "
            f"{first_few(bad)}; look for overflow in that training"
        )
    return Ranking(samples.sample_ids, samples.mean(norms**2), metadata={"n_rows": len(norms)})
