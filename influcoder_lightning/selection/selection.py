"""From scores to a subset of the pool."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.rows import Row, TextRow
from influcoder_lightning.errors import RankingError, did_you_mean
from influcoder_lightning.ids import IdArray, SampleId, as_id_array, first_few, id_keys
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.selection.diversity import MAX_SIMILARITY, take_diverse

Groups = Mapping[Any, Any] | Sequence[Any] | NDArray[Any]
Quota = int | Mapping[Any, int]
Codes = NDArray[np.number] | Callable[[IdArray], NDArray[np.number]]
Strategy = Callable[..., list[SampleId]]
_S = TypeVar("_S", bound=Strategy)

_STRATEGIES: dict[str, Strategy] = {}


def register_strategy(name: str) -> Callable[[_S], _S]:
    """Make a function available as `select(strategy=name)`.

    It takes the ranking, and by keyword those of k, threshold, groups, quota, codes,
    max_similarity and seed that it uses; one without a default is required.

    Raises:
        RankingError: the name is taken.
    """

    def add(function: _S) -> _S:
        if name in _STRATEGIES:
            raise RankingError(f"a selection strategy {name!r} exists already; choose another name")
        _STRATEGIES[name] = function
        return function

    return add


def available_strategies() -> list[str]:
    """Names of all selection strategies, sorted."""
    return sorted(_STRATEGIES)


def select(
    ranking: Ranking,
    strategy: str = "top_k",
    k: int | None = None,
    *,
    threshold: float | None = None,
    groups: Groups | None = None,
    quota: Quota | None = None,
    codes: Codes | None = None,
    max_similarity: float | None = None,
    seed: int = 0,
) -> list[SampleId]:
    """Ids of the chosen samples.

    Args:
        ranking: scores of the pool.
        strategy: `top_k` (best first), `bottom_k` (worst first), `random` (k ids without
            replacement, a function of the ids and the seed, not of the scores), `threshold`
            (scores of at least `threshold`, best first), `per_group` (the best `quota` of each
            group, best first), `diverse` (best first, without near-copies of a sample that was
            taken before; see `diversity.take_diverse`).
        k: how many, for `top_k`, `bottom_k`, `random` and `diverse`.
        threshold: for `threshold`.
        groups: for `per_group`: id -> group, or one group per sample in the ranking's order.
        quota: for `per_group`: a number for each group, or group -> number; a group is left out
            by 0.
        codes: for `diverse`: [N, d] in the ranking's order, or a function of ids [n] that gives
            theirs [n, d], such as `diversity.SampleCodes(store)`.
        max_similarity: for `diverse`: the largest cosine of two chosen samples, 0.95 by default.
        seed: for `random`.

    Raises:
        RankingError: unknown strategy; an argument that it needs is missing, or one is given that
            it does not use; more samples asked for than there are.

    Example:
        >>> ranking = Ranking(["a", "b", "c", "d"], [0.1, 0.9, 0.5, 0.4])
        >>> select(ranking, k=2)
        ['b', 'c']
        >>> select(ranking, "threshold", threshold=0.4)
        ['b', 'c', 'd']
        >>> select(ranking, "per_group", groups=["x", "y", "x", "y"], quota=1)
        ['b', 'c']
        >>> select(ranking, "diverse", k=2, codes=np.array([[1, 0], [0, 2], [0, 1], [3, 1]]))
        ['b', 'd']
    """
    if not isinstance(strategy, str) or strategy not in _STRATEGIES:
        known = available_strategies()
        raise RankingError(
            f"unknown selection strategy {strategy!r}{did_you_mean(str(strategy), known)} "
            f"Known strategies: {', '.join(known)}"
        )
    function = _STRATEGIES[strategy]
    _, *parameters = inspect.signature(function).parameters.values()
    used = {parameter.name for parameter in parameters}
    required = {p.name for p in parameters if p.default is inspect.Parameter.empty}
    given: dict[str, object] = {"k": k, "threshold": threshold, "groups": groups, "quota": quota}
    given |= {"codes": codes, "max_similarity": max_similarity}
    given = {name: value for name, value in given.items() if value is not None}
    # The seed has a default, so that a strategy without chance just does not get it.
    given |= {"seed": seed} if "seed" in used else {}
    if missing := sorted(required - set(given)):
        raise RankingError(f"strategy {strategy!r} needs {' and '.join(missing)}")
    if unused := sorted(set(given) - used):
        raise RankingError(
            f"strategy {strategy!r} does not use {' and '.join(unused)}; leave it out, or choose "
            f"another strategy: {', '.join(available_strategies())}"
        )
    return function(ranking, **given)


@register_strategy("top_k")
def _top_k(ranking: Ranking, *, k: int) -> list[SampleId]:
    return ranking.top_k(k)


@register_strategy("bottom_k")
def _bottom_k(ranking: Ranking, *, k: int) -> list[SampleId]:
    return ranking.bottom_k(k)


@register_strategy("random")
def _random(ranking: Ranking, *, k: int, seed: int) -> list[SampleId]:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise RankingError(f"seed={seed!r} must be a whole number of at least 0")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(ranking):
        raise RankingError(
            f"k={k!r} does not fit a ranking of {len(ranking)} samples; "
            f"choose k from 1 to {len(ranking)}"
        )
    # Drawn from the sorted ids: a control must not depend on the order of the file it came from.
    order = np.argsort(np.array(id_keys(ranking.sample_ids), dtype=object), kind="stable")
    chosen = np.random.default_rng(seed).choice(len(ranking), size=int(k), replace=False)
    return ranking.sample_ids[order[chosen]].tolist()


@register_strategy("threshold")
def _threshold(ranking: Ranking, *, threshold: float) -> list[SampleId]:
    number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not number:
        raise RankingError(f"threshold={threshold!r:.60} is no number; give one")
    if math.isnan(threshold):
        raise RankingError("threshold is NaN; give a number")
    order = ranking.order
    chosen = order[ranking.scores[order] >= threshold]
    if not len(chosen):
        best = float(ranking.scores[order[0]])
        raise RankingError(
            f"no sample reaches threshold={threshold:g}; the best score of {len(ranking)} samples "
            f"is {best:g}"
        )
    return ranking.sample_ids[chosen].tolist()


@register_strategy("per_group")
def _per_group(ranking: Ranking, *, groups: Groups, quota: Quota) -> list[SampleId]:
    labels = resolve_groups(ranking, groups)
    order = ranking.order[: ranking.n_scored]
    members: dict[Hashable, list[int]] = {label: [] for label in labels}
    for position in order.tolist():
        members[labels[position]].append(position)
    wanted = _quotas(quota, list(members))
    chosen: list[int] = []
    for label, places in members.items():
        if wanted[label] > len(places):
            raise RankingError(
                f"group {label!r} has {len(places)} scored samples, fewer than its quota of "
                f"{wanted[label]}; lower the quota"
            )
        chosen.extend(places[: wanted[label]])
    if not chosen:
        raise RankingError("every quota is 0, so nothing would be selected; raise one")
    chosen.sort(key=ranking.ranks.__getitem__)
    return ranking.sample_ids[chosen].tolist()


@register_strategy("diverse")
def _diverse(
    ranking: Ranking, *, k: int, codes: Codes, max_similarity: float = MAX_SIMILARITY
) -> list[SampleId]:
    ids = ranking.sample_ids

    def fetch(positions: NDArray[np.int64]) -> NDArray[np.number]:
        return codes(ids[positions]) if callable(codes) else table[positions]

    table = np.empty(0) if callable(codes) else _code_table(codes, len(ids))
    chosen = take_diverse(ranking.order[: ranking.n_scored], fetch, k, max_similarity)
    return ids[chosen].tolist()


def _code_table(codes: NDArray[np.number], n: int) -> NDArray[np.number]:
    table = np.asarray(codes)
    if table.ndim != 2 or len(table) != n or table.dtype.kind not in "fiu":
        raise RankingError(
            f"codes is {table.dtype} of shape {table.shape}; give real numbers [{n}, d], a row per "
            "sample in the order of ranking.sample_ids"
        )
    return table


def _quotas(quota: Quota, labels: list[Hashable]) -> dict[Hashable, int]:
    if isinstance(quota, Mapping):
        if unknown := [label for label in quota if label not in set(labels)]:
            raise RankingError(
                f"quota names groups that no sample has: {first_few(unknown)}; "
                f"groups: {first_few(labels, 20)}"
            )
        if missing := [label for label in labels if label not in quota]:
            raise RankingError(
                f"quota lacks the groups {first_few(missing, 20)}; give 0 to leave a group out"
            )
        wanted = dict(quota)
    else:
        wanted = dict.fromkeys(labels, quota)
    for label, count in wanted.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
            raise RankingError(f"quota of group {label!r} is {count!r}; give a whole number >= 0")
    return wanted


def resolve_groups(ranking: Ranking, groups: Groups) -> list[Hashable]:
    """The group of each sample [N], in the ranking's order.

    Args:
        ranking: gives the samples.
        groups: id -> group (ids compared by their text), or one group per sample.

    Raises:
        RankingError: a sample without a group, or a sequence of another length.
    """
    n = len(ranking)
    if isinstance(groups, Mapping):
        by_key = {str(sample_id): group for sample_id, group in groups.items()}
        labels = [by_key.get(key) for key in id_keys(ranking.sample_ids)]
    elif isinstance(groups, str) or not hasattr(groups, "__len__") or len(groups) != n:
        given = f"{len(groups)} entries" if hasattr(groups, "__len__") else f"{groups!r:.60}"
        raise RankingError(
            f"groups has {given} for {n} samples; give one per sample in "
            "the order of ranking.sample_ids, or a mapping id -> group"
        )
    else:
        labels = list(groups.tolist() if hasattr(groups, "tolist") else groups)
    without = [place for place, label in enumerate(labels) if label is None]
    if without:
        raise RankingError(
            f"{len(without)} of {n} samples have no group: "
            f"{first_few(id_keys(ranking.sample_ids[without]))}; name a group for each sample"
        )
    if wrong := [label for label in labels if not isinstance(label, Hashable)]:
        raise RankingError(f"the group {wrong[0]!r:.60} is no name; give text or numbers")
    return labels


def select_rows(
    rows: Sequence[TextRow],
    ids: Iterable[object],
    ranking: Ranking,
    row_ids: Iterable[object],
) -> list[Row]:
    """The rows of the chosen ids as they are, plus `influence_score`, best first.

    Rows that share an id are all returned, in their order. A score that is not finite becomes
    None, which JSON can express. An older `influence_score` is replaced.

    Args:
        rows: the pool.
        ids: chosen ids, as `select` returns them.
        ranking: gives the scores.
        row_ids: id of each row; ids are compared by their text.

    Raises:
        RankingError: lengths differ, or an id is not in the pool or not in the ranking.
    """
    keys = id_keys(as_id_array(row_ids))
    if len(keys) != len(rows):
        raise RankingError(f"{len(rows)} rows and {len(keys)} row ids; give one id per row")
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    chosen = list(dict.fromkeys(id_keys(as_id_array(ids))))
    position = {key: place for place, key in enumerate(id_keys(ranking.sample_ids))}
    for name, known in (("pool", places), ("ranking", position)):
        if unknown := [key for key in chosen if key not in known]:
            raise RankingError(
                f"{len(unknown)} of {len(chosen)} chosen ids are not in the {name}: "
                f"{first_few(unknown)}; use the pool that was valued"
            )
    chosen.sort(key=lambda key: int(ranking.ranks[position[key]]))
    selected: list[Row] = []
    for key in chosen:
        score = float(ranking.scores[position[key]])
        for place in places[key]:
            selected.append(
                {**rows[place], "influence_score": score if math.isfinite(score) else None}
            )
    return selected
