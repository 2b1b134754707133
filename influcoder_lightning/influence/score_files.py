"""Scores from anywhere: our rankings, tables, JSON, and arrays of scores or query x sample scores.

| suffix | content |
|---|---|
| folder | a run folder with ``ranking.csv`` |
| .csv, .parquet | columns ``sample_id`` and ``score`` |
| .json | ``{id: score}`` or ``{id: [score, ...]}``, averaged |
| .npy, .pt | vector [N], or matrix [M, N] of queries x samples, averaged over queries; positional |

Nothing in a file is executed: no pickle in .npy, ``weights_only=True`` for .pt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.ids import id_keys, parse_ids
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.ranking_file import load as load_ranking


def load_scores(paths: str | Path | Sequence[str | Path]) -> Ranking:
    """Scores of one file, or of several shards joined in the order given.

    Positional shards continue each other's numbering, so that ids are 0 to N - 1.

    Raises:
        RankingError: a file that is missing, damaged, of an unknown kind or not numeric; shards
            that share ids or mix positions with ids.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    if not files:
        raise RankingError("no score file was given")
    shards = [_load(Path(file)) for file in files]
    positional = [isinstance(shard, np.ndarray) for shard in shards]
    source = ", ".join(map(str, files))
    if all(positional):
        scores = np.concatenate([shard for shard in shards if isinstance(shard, np.ndarray)])
        return Ranking(np.arange(len(scores)), scores, method="file", metadata={"path": source})
    if any(positional):
        raise RankingError(f"{source}: some shards go by position and others by id; give one kind")
    named = [shard for shard in shards if isinstance(shard, Ranking)]
    if len(named) == 1:
        return named[0]
    keys = [key for shard in named for key in id_keys(shard.sample_ids)]
    scores = np.concatenate([shard.scores for shard in named])
    return Ranking(parse_ids(keys), scores, method="file", metadata={"path": source})


def _load(path: Path) -> Ranking | NDArray[np.float64]:
    if path.is_dir():
        path = path / "ranking.csv"
    if not path.is_file():
        raise RankingError(f"{path}: no such file")
    if path.suffix not in _READERS:
        raise RankingError(
            f"{path}: unknown kind of score file; known are {', '.join(sorted(_READERS))}, and run "
            "folders with a ranking.csv"
        )
    return _READERS[path.suffix](path)


def _parquet(path: Path) -> Ranking:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise RankingError(f"{path}: reading Parquet needs `pip install pyarrow`") from error
    except Exception as error:
        raise RankingError(f"{path} cannot be read as Parquet: {error}") from error
    if missing := {"sample_id", "score"} - set(frame.columns):
        raise RankingError(f"{path} has no column {', '.join(sorted(missing))}")
    scores = pd.to_numeric(frame["score"], errors="coerce").to_numpy(np.float64)
    return _named(path, [str(name) for name in frame["sample_id"]], scores)


def _json(path: Path) -> Ranking:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise RankingError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise RankingError(f"{path}: expected {{id: score}} or {{id: [score, ...]}}")
    scores = []
    for key, value in content.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(_is_number(v) for v in values):
            raise RankingError(f"{path}: {key!r} has {value!r:.60}; expected a number or numbers")
        scores.append(float(np.mean(values)))
    return _named(path, list(content), np.array(scores))


def _npy(path: Path) -> NDArray[np.float64]:
    try:
        return _averaged(path, np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise RankingError(f"{path} cannot be read as an array of numbers: {error}") from error


def _pt(path: Path) -> NDArray[np.float64]:
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RankingError(f"{path} cannot be read as a plain tensor: {reason}") from error
    if not isinstance(tensor, torch.Tensor):
        raise RankingError(f"{path} holds a {type(tensor).__name__}; expected one tensor of scores")
    return _averaged(path, tensor.detach().to_dense().double().numpy())


def _averaged(path: Path, array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2) or not array.size:
        raise RankingError(
            f"{path} holds {array.dtype} of shape {array.shape}; expected scores [N], or queries x "
            "samples [M, N]"
        )
    if array.ndim == 1:
        return array.astype(np.float64)
    return np.asarray(array.mean(axis=0, dtype=np.float64))


def _named(path: Path, keys: list[str], scores: NDArray[np.float64]) -> Ranking:
    try:
        return Ranking(parse_ids(keys), scores, method="file", metadata={"path": str(path)})
    except RankingError as error:
        raise RankingError(f"{path}: {error}") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an id occurs twice")
    return content


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_READERS: dict[str, Callable[[Path], Ranking | NDArray[np.float64]]] = {
    ".csv": load_ranking,
    ".json": _json,
    ".npy": _npy,
    ".parquet": _parquet,
    ".pt": _pt,
}
