"""Scores and codes in the formats of other tools: DATE-LM, `datasets`, FAISS."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.rows import complete_ids, load_rows
from influcoder_lightning.errors import ConfigError, RankingError
from influcoder_lightning.files import durable_path
from influcoder_lightning.ids import first_few, id_keys
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.selection.diversity import SampleCodes

if TYPE_CHECKING:
    from influcoder_lightning.influence_store import InfluenceStore

Pool = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Any
"""The rows that were ranked: a path that `load_rows` takes, a list of rows, or a ``Dataset``."""


def to_date_lm(
    ranking: Ranking, path: str | os.PathLike[str], pool: Pool = None, *, per_query: bool = False
) -> None:
    """Write the scores as DATE-LM (github.com/DataAttributionEval/DATE-LM) reads them.

    ``metrics.npy`` for the selection tasks: float32 [N], one score for each training row in the
    order of the rows, higher is better. With a name that ends in ``.json``, for its applications:
    a list of N numbers, or with `per_query` a list of M such lists.

    Args:
        ranking: of N samples.
        path: ends in ``.npy`` or ``.json``; replaced as a whole.
        pool: the training rows in their order. Not needed where ids are 0 to N - 1, as they are
            for rows without ids.
        per_query: the scores towards each query, which the factual tasks ask for; ``.json`` only.

    Raises:
        RankingError: ranking and pool have different ids, a score is not finite, or there are no
            scores per query.
        ConfigError: another suffix, or `per_query` in an ``.npy``.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".json") or (per_query and path.suffix == ".npy"):
        raise ConfigError(
            f"{path}: DATE-LM reads scores from .npy (one per row) or .json (one per row, or with "
            "per_query=True one per query and row); choose such a name."
        )
    places = _places(ranking, _ids_of(pool) if pool is not None else np.arange(len(ranking)))
    if per_query and ranking.per_query is None:
        raise RankingError(
            f"this ranking ({ranking.method or 'no method'}) has no scores per query; keep them "
            "with store.rank(..., per_query=True)"
        )
    values = ranking.per_query if per_query and ranking.per_query is not None else ranking.scores
    scores = np.asarray(values[..., places], dtype=np.float32)
    if not np.isfinite(scores).all():  # DATE-LM would take NaN for the best
        raise RankingError(
            f"{int(np.count_nonzero(~np.isfinite(scores)))} scores are not finite; DATE-LM needs "
            "one for every row"
        )
    with durable_path(path) as part:
        if path.suffix == ".npy":
            np.save(part, scores, allow_pickle=False)
        else:
            part.write_text(json.dumps(scores.tolist()), encoding="utf-8")


def to_dataset(ranking: Ranking, pool: Pool, folder: str | os.PathLike[str]) -> Any:
    """Write the pool as a ``datasets`` folder with `influence_score` and `influence_rank`.

    Everything else is as it was, row for row; older columns of these two names are replaced. The
    rows are in memory while it is written, except those of a ``Dataset``.

    Args:
        ranking: of the pool; rank 1 is the best.
        pool: the rows that were ranked.
        folder: for ``datasets.load_from_disk``; must not be there yet.

    Returns:
        The ``Dataset``.

    Raises:
        RankingError: ranking and pool have different ids.
        ConfigError: the folder is there, columns hold values of several kinds, or ``datasets`` is
            not installed.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another folder, or delete it.")
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ConfigError(
            "`datasets` is not installed; run `pip install datasets`, or take ranking.csv."
        ) from error
    rows: Any = load_rows(pool) if isinstance(pool, str | os.PathLike) else pool
    places = _places(ranking, _ids_of(rows))
    columns = {
        "influence_score": ranking.scores[places],
        "influence_rank": ranking.ranks[places],
    }
    if not hasattr(rows, "column_names"):
        names = dict.fromkeys(name for row in rows for name in row)
        try:
            rows = Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
        except Exception as error:  # Arrow has a dozen for values that do not go together
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(
                f"the rows do not fit into columns ({reason:.300}); give every field one kind of "
                "value, or pass a Dataset"
            ) from error
    rows = rows.remove_columns([name for name in columns if name in rows.column_names])
    for name, values in columns.items():
        rows = rows.add_column(name, values.tolist())
    rows.save_to_disk(str(folder))
    return rows


def to_faiss(
    store: InfluenceStore, path: str | os.PathLike[str] | None = None
) -> tuple[Any, NDArray[Any]]:
    """A FAISS index of the samples' codes, to ask for the nearest to a query or to a sample.

    One code for each sample: the mean of the unit codes of its rows in all windows, at norm 1 (see
    `diversity.SampleCodes`). It is in the space of the last tower version, as are
    ``store.query_codes(end=True)`` and what ``store.text_tower().encode(rows)`` gives. Inner
    products are cosines; the search is exact. It holds 4 x N x d bytes.

    Args:
        store: of a finished valuation.
        path: also write the index there, for ``faiss.read_index``, and the ids beside it, as
            ``<stem>.ids.json``.

    Returns:
        The index, and the ids [N] of its vectors: ``ids[places]`` are what a search has found.

    Raises:
        ConfigError: FAISS is not installed.
        RankingError: the store has no rows.

    Example::

        index, ids = to_faiss(store)
        cosines, places = index.search(store.query_codes(end=True).astype("float32"), 5)
        ids[places]  # [M, 5]: the five nearest samples of each query
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("FAISS is not installed; run `pip install faiss-cpu`.") from error
    ids = SampleRows(store.sample_ids).sample_ids
    codes = SampleCodes(store)(ids)
    index = faiss.IndexFlatIP(codes.shape[1])
    index.add(codes)
    if path is not None:
        path = Path(path)
        with durable_path(path) as part:
            faiss.write_index(index, str(part))
        with durable_path(path.with_name(f"{path.stem}.ids.json")) as part:
            part.write_text(json.dumps(ids.tolist()), encoding="utf-8")
    return index, ids


def _ids_of(pool: Pool) -> NDArray[Any]:
    """Id of each row, as text."""
    rows: Any = load_rows(pool) if isinstance(pool, str | os.PathLike) else pool
    if hasattr(rows, "column_names"):  # a Dataset: no other column is read
        given = list(rows["id"]) if "id" in rows.column_names else [None] * len(rows)
    else:
        given = [row.get("id") for row in rows]
    return np.array([str(name) for name in complete_ids(given)], dtype=object)


def _places(ranking: Ranking, ids: NDArray[Any]) -> NDArray[np.int64]:
    """Where in the ranking each row of the pool is; rows that share an id share a place."""
    known = {key: place for place, key in enumerate(id_keys(ranking.sample_ids))}
    keys = id_keys(ids)
    unranked = [key for key in keys if key not in known]
    unknown = sorted(set(known) - set(keys))
    if unranked or unknown:
        raise RankingError(
            f"ranking and pool have different ids: {len(unranked)} rows of the pool have no score "
            f"{first_few(unranked)}, {len(unknown)} ranked ids have no row {first_few(unknown)}; "
            "give the pool that was ranked"
        )
    return np.array([known[key] for key in keys], dtype=np.int64)
