"""`random`: the control that every other ranking has to beat.

score(z) = place of z in a seeded permutation, spread evenly over (0, 1)
"""

from __future__ import annotations

import numpy as np

from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request


@register(
    "random",
    needs={"records"},
    says="Scores by chance; a control.",
)
def random(request: Request, *, seed: int = 0) -> Ranking:
    """A permutation of the samples without ties, the same for the same seed."""
    samples = SampleRows(request.require_store().sample_ids)
    places = np.random.default_rng(seed).permutation(len(samples))
    return Ranking(samples.sample_ids, (places + 0.5) / len(samples))
