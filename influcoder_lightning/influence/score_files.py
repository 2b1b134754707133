"""Scores from anywhere: our rankings, tables, JSON, and arrays of scores or query x sample scores.

| path | content |
|---|---|
| folder | a run folder with ``ranking.csv`` |
| .csv, .parquet | columns ``sample_id`` and ``score`` |
| .json | ``{id: score}`` or ``{id: [score, ...]}``, averaged; or a list, read like an array |
| .npy, .pt | vector [N], or matrix [M, N] of queries x samples, averaged over queries; positional |

Positional scores have the ids 0 to N - 1. A sample without a score (NaN, null, an empty cell, or
one of these among the scores that are averaged) gets NaN. Nothing in a file is executed: no pickle
in .npy, ``weights_only=True`` for .pt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.files import read_whole, refuse_holes, why_no_file
from influcoder_lightning.ids import id_keys, parse_ids
from influcoder_lightning.influence import ranking_file
from influcoder_lightning.influence.parquet_scores import read_parquet
from influcoder_lightning.influence.ranking import Ranking

# JSON takes ten times its size in memory; what is larger can be given as shards.
_MOST_JSON = 2**30


@dataclass(frozen=True)
class Shard:
    """What one file holds.

    Attributes:
        scores: [n] float64, NaN where there is none.
        keys: n ids as text; None: positional.
        n_rows: rows of a matrix of queries x samples; None: the file was no matrix.
    """

    scores: NDArray[np.float64]
    keys: list[str] | None = None
    n_rows: int | None = None


def load_scores(paths: str | Path | Sequence[str | Path]) -> Ranking:
    """Scores of one file, or of several shards of samples joined in the order given.

    The metadata say where they come from, whether they are positional, and of how many query rows
    a matrix had (shards: their sum).

    Raises:
        RankingError: a file that is missing, damaged, of an unknown kind or not numeric; shards
            that share ids or mix positions with ids.
    """
    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not files:
        raise RankingError("no score file was given; name one, or a list of shards: [x,y]")
    shards = [_load(file) for file in files]
    source = ", ".join(map(str, files))
    positional = {shard.keys is None for shard in shards}
    if len(positional) > 1:
        raise RankingError(f"{source}: some shards go by position and others by id; give one kind")
    scores = np.concatenate([shard.scores for shard in shards])
    keys = [key for shard in shards for key in shard.keys or ()]
    n_rows = [shard.n_rows for shard in shards if shard.n_rows is not None]
    metadata = {
        "path": source,
        "positional": positional.pop(),
        "query_rows": sum(n_rows) if n_rows else None,
    }
    try:
        ids = np.arange(len(scores)) if metadata["positional"] else parse_ids(keys)
        return Ranking(ids, scores, method="file", metadata=metadata)
    except RankingError as error:
        raise RankingError(f"{source}: {error}") from error


def _load(path: Path) -> Shard:
    if path.is_dir():
        if not (path / "ranking.csv").is_file():
            raise RankingError(f"{path}: no ranking.csv in this folder; name a score file or a run")
        path = path / "ranking.csv"
    if why := why_no_file(path):
        raise RankingError(f"{path}: {why}; name a score file or a run folder")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise RankingError(
            f"{path}: unknown kind of score file; known are {', '.join(sorted(_READERS))}, and run "
            "folders with a ranking.csv"
        )
    return reader(path)


def _csv(path: Path) -> Shard:
    ranking = ranking_file.load(path, allow_missing=True)
    return Shard(ranking.scores, id_keys(ranking.sample_ids))


def _parquet(path: Path) -> Shard:
    keys, scores = read_parquet(path)
    return Shard(scores, keys)


def _json(path: Path) -> Shard:
    try:
        text = read_whole(path, _MOST_JSON).decode("utf-8-sig")
        content = json.loads(text, object_pairs_hook=_no_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise RankingError(f"{path} cannot be read as JSON: {_reason(error)}") from error
    if isinstance(content, list) and content:
        rows = content if isinstance(content[0], list) else [content]
        numbers = [_numbers(path, f"row {i}", row) for i, row in enumerate(rows)]
        if len({len(row) for row in numbers}) > 1:
            raise RankingError(f"{path}: rows of different lengths are no matrix")
        return _averaged(path, np.array(numbers if rows is content else numbers[0]))
    if not isinstance(content, dict) or not content:
        raise RankingError(f"{path}: expected {{id: score}} or {{id: [score, ...]}}")
    try:
        "".join(content).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RankingError(
            f"{path}: an id has a lone surrogate, which no file can hold ({error}); rename it"
        ) from error
    scores = [
        math.fsum(numbers) / len(numbers)
        for numbers in (_numbers(path, repr(key), value) for key, value in content.items())
    ]
    return Shard(np.array(scores), list(content))


def _numbers(path: Path, name: str, value: Any) -> list[float]:
    """One number or a list of numbers; null is NaN, and so is a list with infinities."""
    values = value if isinstance(value, list) else [value]
    try:
        if values and all(v is None or type(v) in (int, float) for v in values):
            numbers = [math.nan if v is None else float(v) for v in values]
            # fsum refuses infinities of both signs; neither kind of mean is a score.
            return numbers if all(map(math.isfinite, numbers)) else [math.nan] * len(numbers)
    except OverflowError:
        pass
    raise RankingError(f"{path}: {name:.60} has {value!r:.60}; expected a number or numbers")


def mapped_array(path: Path) -> NDArray[Any]:
    """What a ``.npy`` file holds, read when used.

    A header that claims more than the file holds is refused before memory is taken, and so are
    objects, which would need pickle.

    Raises:
        RankingError: it is no such file.
    """
    try:
        if why := why_no_file(path):
            raise ValueError(why)
        refuse_holes(path)
        _check_header_length(path)
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header may raise anything
        raise RankingError(f"{path} cannot be read as an array: {_reason(error)}") from error


def _npy(path: Path) -> Shard:
    return _averaged(path, mapped_array(path))


def _check_header_length(path: Path) -> None:
    """NumPy takes the memory for a header, of up to 4 GB, before it looks at it."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[6:7] > b"\x01" and int.from_bytes(start[8:], "little") > 10_000:
        raise ValueError("its header declares more than 10,000 bytes")


def _pt(path: Path) -> Shard:
    import torch

    try:
        refuse_holes(path)
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RankingError(
            f"{path} cannot be read as a plain tensor, and nothing else is loaded: {_reason(error)}"
        ) from error
    if not isinstance(tensor, torch.Tensor):
        raise RankingError(
            f"{path} holds a {type(tensor).__name__}; save one tensor of scores with torch.save"
        )
    plain = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta)
    # A view that repeats its storage could ask for any amount of memory.
    if plain and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise RankingError(f"{path}: the tensor is an expanded view; save it after .contiguous()")
    if not plain or tensor.is_complex():
        raise RankingError(
            f"{path}: expected a dense tensor of real numbers, not {tensor.layout}, {tensor.dtype}"
        )
    return _averaged(path, tensor.detach().double().numpy())


def _averaged(path: Path, array: NDArray[np.number | np.bool_]) -> Shard:
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2) or not array.size:
        raise RankingError(
            f"{path} holds {array.dtype} of shape {array.shape}; expected scores [N], or queries x "
            "samples [M, N]"
        )
    if array.ndim == 1:
        return Shard(array.astype(np.float64))
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return Shard(np.asarray(array.mean(axis=0, dtype=np.float64)), n_rows=len(array))


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an id occurs twice")
    return content


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


_READERS: dict[str, Callable[[Path], Shard]] = {
    ".csv": _csv,
    ".json": _json,
    ".npy": _npy,
    ".parquet": _parquet,
    ".pt": _pt,
}
