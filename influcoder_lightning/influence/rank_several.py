"""Rankings of one store by all methods that take no more than reading it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.errors import RankingError, StoreError
from influcoder_lightning.ids import id_keys
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.part_of_store import PartOfStore
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import rank
from influcoder_lightning.influence.request import StoreReader

TOWARDS_QUERIES = ("fisher", "cosine", "tracin")
SIMPLE = ("loss", "length", "tfidf")  # without a gradient
CONTROL = "random"
SAMPLES = 20_000  # that are ranked, of larger pools
ENCODED = 1_000  # texts that go through an encoder, which takes a millisecond or more for each
_ROWS, _FEWEST = 200_000, 2_000  # rows in memory, of larger pools, and samples for all that
_COLUMNS = (
    "window",
    "tower_version",
    "code",
    "code_length",
    "grad_norm",
    "learning_rate",
    "loss",
    "n_tokens",
)


@dataclass(frozen=True)
class Several:
    """Rankings by method, of all samples or a seeded part of them.

    Attributes:
        rankings: by method; that by `encoder` may have fewer samples than the others.
        n_samples: in the store.
        n_used: that were ranked.
        left_out: method -> why it does not apply.
    """

    rankings: dict[str, Ranking]
    n_samples: int
    n_used: int
    left_out: dict[str, str]


def rank_by_several(
    store: StoreReader,
    ranking: Ranking,
    data: Iterable[TextRow] = (),
    *,
    samples: int = SAMPLES,
    encoded: int = ENCODED,
    seed: int = 0,
) -> Several:
    """Rank by `fisher`, `cosine`, `tracin`, `self`, `encoder`, `loss`, `length`, `tfidf`, `random`.

    Of a pool with more than `samples` samples a seeded part is ranked: the store is read once, and
    about 200,000 of its rows are held in memory, or those of 2,000 samples where these have more.

    Args:
        store: to rank.
        ranking: by the method that matters; taken as it is, and first of the rankings.
        data: rows with `prompt`, `response` and `id`; empty: no rankings by text.
        samples: how many to rank, at most.
        encoded: how many texts to encode, at most.
        seed: draws the part.
    """
    owners = SampleRows(store.sample_ids)
    random = np.random.default_rng(seed)
    chosen = np.arange(len(owners))
    part: StoreReader = store
    if len(owners) > samples:
        per_sample = len(owners.index) / len(owners)
        size = min(samples, max(_FEWEST, int(_ROWS / per_sample)))
        chosen = np.sort(random.choice(len(owners), size, replace=False))
        inside = np.zeros(len(owners), dtype=bool)
        inside[chosen] = True
        part = PartOfStore(store, inside[owners.index], _COLUMNS)
    used = set(id_keys(owners.sample_ids[chosen]))
    rows = [row for row in data if str(row["id"]) in used]
    few = rows
    if len(rows) > encoded:
        few = [rows[i] for i in np.sort(random.choice(len(rows), encoded, replace=False))]
    found = Several({ranking.method: _within(ranking, used)}, len(owners), len(chosen), {})
    fast: dict[str, Any] = {"per_query": False}
    for method, texts, options in [
        *((name, None, fast) for name in TOWARDS_QUERIES),
        ("self", None, {}),
        ("encoder", few, {}),
        ("loss", None, {}),
        ("length", None, {}),
        ("tfidf", rows, {}),
        (CONTROL, None, {"seed": seed}),
    ]:
        if method in found.rankings:
            continue
        if texts is not None and not texts:
            found.left_out[method] = "the samples' text is not known"
            continue
        try:
            found.rankings[method] = rank(part, method, data=texts, **options)
        except (RankingError, StoreError) as error:
            found.left_out[method] = str(error)
    return found


def _within(ranking: Ranking, used: set[str]) -> Ranking:
    """The samples of a ranking that are used."""
    keep = np.array([key in used for key in id_keys(ranking.sample_ids)])
    if keep.all():
        return ranking
    return Ranking(ranking.sample_ids[keep], ranking.scores[keep], method=ranking.method)
