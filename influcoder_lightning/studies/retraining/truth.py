"""The losses of retrained subset models, and what their own seeds say about each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray, first_few, id_keys
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.studies.retraining.retraining import Job, RetrainedModels
from influcoder_lightning.studies.retraining.subsets import membership


@dataclass(frozen=True)
class Truth:
    """What training on each subset did to each query.

    Attributes:
        sample_ids: [N] of the pool, in its order.
        query_ids: [M].
        members: [S, N] bool, which samples a subset has.
        losses: [S, R, M] float64, loss of each query after training on a subset with each seed,
            nats per response token.
    """

    sample_ids: IdArray
    query_ids: IdArray
    members: NDArray[np.bool_]
    losses: NDArray[np.float64]

    @classmethod
    def read(
        cls,
        models: RetrainedModels,
        subsets: Sequence[NDArray[np.int64]],
        seeds: Sequence[int],
        sample_ids: IdArray,
        query_ids: IdArray,
    ) -> Truth:
        """The losses of these subsets and seeds, all of which are trained.

        Raises:
            RankingError: one is not.
        """
        losses = np.empty((len(subsets), len(seeds), len(query_ids)))
        for row, subset in zip(losses, subsets, strict=True):
            for place, seed in enumerate(seeds):
                known = models.known(Job(tuple(subset.tolist()), seed))
                if known is None or known.shape != (len(query_ids),):
                    raise RankingError(f"{models.folder} lacks a subset model; run the recipe on.")
                row[place] = known
        return cls(sample_ids, query_ids, membership(list(subsets), len(sample_ids)), losses)

    @property
    def helpfulness(self) -> NDArray[np.float64]:
        """[M, S] minus the loss of each query, mean over seeds: higher = the subset helped more."""
        return np.asarray(-self.losses.mean(axis=1).T)

    def predictions(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """[M, S] what additive scores [M, N] say of each subset: the sum over its members.

        Ilyas et al. 2022, Datamodels, arXiv 2202.00622.
        """
        return np.asarray(scores, dtype=np.float64) @ self.members.T.astype(np.float64)

    def scores_of(self, ranking: Ranking) -> NDArray[np.float64]:
        """[M, N] a ranking's scores in the order of this pool and these queries.

        A ranking that keeps no scores per query says the same for each.

        Raises:
            RankingError: other samples or queries than these, or a score that is not finite.
        """
        ranking = ranking.align(self.sample_ids)
        if ranking.per_query is None:
            matrix: NDArray[np.floating] = np.tile(ranking.scores, (len(self.query_ids), 1))
        else:
            keys = [] if ranking.query_ids is None else id_keys(ranking.query_ids)
            places = {key: place for place, key in enumerate(keys)}
            if missing := [key for key in id_keys(self.query_ids) if key not in places]:
                raise RankingError(
                    f"ranking {ranking.method!r} has no scores of the queries {first_few(missing)}"
                )
            matrix = ranking.per_query[[places[key] for key in id_keys(self.query_ids)]]
        if not np.isfinite(matrix).all():
            raise RankingError(
                f"ranking {ranking.method!r} has samples without a score: subsets that hold them "
                "cannot be predicted. Score all samples of the pool."
            )
        return np.asarray(matrix, dtype=np.float64)
