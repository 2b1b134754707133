"""`less`: would the optimizer's own step on this sample help the queries?

    score(z) = max over groups Q of queries, mean over q in Q, sum over rows t of z:
               learning_rate_t * cos(u_t(z), g_w(t)(q))

u_t(z) is the update that the optimizer would have made at row t from the gradient of z alone, with
its moments as they were then (`capture/updates.py`); g_w(t)(q) is the plain gradient of the query
at the start of the row's window w(t). Source: Xia et al. 2024, LESS, arXiv 2402.04333, section 3
and definition 3.1: Adam for the sample, SGD for the query, checkpoints weighted by their learning
rate, the best of the query's subtasks. As in the published code, the mean over a subtask is one of
cosines, and every captured step is a checkpoint here.

The cosine is read from the codes: <code, code> times both lengths, which is the inner product of
the unit vectors within the code space. It was learned from gradients, and holds of an update what
gradients can see of it: how much that is differs from sample to sample, so the lengths count.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray, first_few, id_keys
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import PER_QUERY_BYTES, rank_by_cosines

Groups = Mapping[Any, Hashable] | Sequence[Hashable]


@register(
    "less",
    needs={"gradients", "updates", "queries"},
    says="Ranks by the cosine of the update that the optimizer would make from the sample.",
)
def less(
    request: Request,
    *,
    groups: Groups | None = None,
    per_query: bool | None = None,
    block_rows: int = 8192,
) -> Ranking:
    """Sum of learning rate x cosine of the optimizer's update with the queries' gradients.

    The codes are read once for each group.

    Args:
        request: what was asked.
        groups: the group of each query, as ``{query id: group}``, or in the order of the queries; a
            sample's score is that of its best group. None: all queries are one group.
        per_query: as for `cosine`.
        block_rows: as for `cosine`.

    Raises:
        RankingError: the store has no optimizer updates or no learning rates, or a query has no
            group.
    """
    store, positions = request.require_store(), request.query_positions()
    if "update_code" not in store.column_names():
        raise RankingError(
            "method 'less' needs the update that the optimizer makes from each sample, and this "
            "store has none; value again in a training run with optimizer_features=True "
            "(influence.optimizer_features=true), or use 'cosine'"
        )
    rates = store.column("learning_rate")
    if not np.isfinite(rates).all() or not rates.any():
        raise RankingError(
            "method 'less' weighs rows by their learning rate, which is unknown for some or zero "
            "for all of them; use 'cosine'"
        )
    members = _members(store.query_ids[positions], groups)
    if per_query is None:
        n_samples = len(SampleRows(store.sample_ids))
        per_query = 4 * n_samples * len(positions) <= PER_QUERY_BYTES
    rankings = [
        rank_by_cosines(
            request,
            code="update_code",
            row_factors=["learning_rate", "update_length"],
            query_factors=["code_length"],
            mean_over_rows=False,
            per_query=per_query,
            block_rows=block_rows,
            positions=positions[places],
        )
        for places in members.values()
    ]
    each = None
    if per_query:
        each = np.empty((len(positions), len(rankings[0])), dtype=np.float32)
        for places, ranking in zip(members.values(), rankings, strict=True):
            each[places] = ranking.per_query
    return Ranking(
        sample_ids=rankings[0].sample_ids,
        scores=np.max([ranking.scores for ranking in rankings], axis=0),
        per_query=each,
        query_ids=store.query_ids[positions],
        metadata={
            **rankings[0].metadata,
            "n_queries": len(positions),
            "groups": {str(group): len(places) for group, places in members.items()},
        },
    )


def _members(query_ids: IdArray, groups: Groups | None) -> dict[Hashable, list[int]]:
    """Positions of each group's queries among the chosen ones [M], in order of appearance."""
    if groups is None:
        return {"all": list(range(len(query_ids)))}
    labels: list[Hashable]
    if isinstance(groups, Mapping):
        by_key = {str(query): group for query, group in groups.items()}
        keys = id_keys(query_ids)
        if missing := [key for key in keys if key not in by_key]:
            raise RankingError(
                f"method 'less': groups names no group for {len(missing)} of {len(keys)} queries: "
                f"{first_few(missing)}"
            )
        labels = [by_key[key] for key in keys]
    else:
        labels = list(groups)
        if len(labels) != len(query_ids):
            raise RankingError(
                f"method 'less': groups has {len(labels)} entries for {len(query_ids)} queries; "
                "give one for each, in their order, or {query id: group}"
            )
    members: dict[Hashable, list[int]] = {}
    for place, label in enumerate(labels):
        members.setdefault(label, []).append(place)
    return members
