"""`length`: longer responses first.

    score(z) = mean over rows of z: number of response tokens

A baseline that is hard to beat in instruction tuning: Zhao et al. 2024, "Long Is More for
Alignment", arXiv 2402.04833.
"""

from __future__ import annotations

from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request


@register(
    "length",
    needs={"records"},
    says="How long the response is; a baseline.",
)
def length(request: Request) -> Ranking:
    """Number of response tokens, larger first."""
    store = request.require_store()
    samples = SampleRows(store.sample_ids)
    tokens = store.column("n_tokens")
    return Ranking(samples.sample_ids, samples.mean(tokens), metadata={"n_rows": len(tokens)})
