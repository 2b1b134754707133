"""`ranking.csv` (`sample_id,score,rank`, best first) and `ranking.per_query.npz` beside it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.files import LONGEST, durable_path, refuse_holes, why_no_file
from influcoder_lightning.ids import IdArray, as_id_array, first_few, id_keys, parse_ids, repeated
from influcoder_lightning.spreadsheet import from_cell, quoted

_BLOCK = 65_536  # lines made at a time: ids and scores as Python objects take much memory
_MISSING = ("", "nan", "inf", "-inf")


class Ranked(Protocol):
    """What is saved of a `Ranking`."""

    @property
    def sample_ids(self) -> IdArray:
        """[N]."""

    @property
    def scores(self) -> NDArray[np.float64]:
        """[N]."""

    @property
    def ranks(self) -> NDArray[np.int64]:
        """[N] 1 is the best."""

    @property
    def order(self) -> NDArray[np.int64]:
        """[N] positions, best first."""

    @property
    def per_query(self) -> NDArray[np.floating] | None:
        """[M, N]."""

    @property
    def query_ids(self) -> IdArray | None:
        """[M]."""

    @property
    def confidence(self) -> NDArray[np.float64] | None:
        """[N]."""

    @property
    def method(self) -> str:
        """that made it."""


class Loaded(NamedTuple):
    """What a file holds: ids [N], scores [N], and perhaps scores [M, N] of queries with ids [M]."""

    sample_ids: NDArray[Any]
    scores: NDArray[np.float64]
    per_query: NDArray[Any] | None
    query_ids: NDArray[Any] | None


def save(ranking: Ranked, path: str | os.PathLike[str], per_query: bool = False) -> None:
    """Write `path` as CSV, best sample first; with `per_query` also `<stem>.per_query.npz`.

    Each file is replaced as a whole. Scores and ids are written so that they read back exactly; an
    id that a spreadsheet would take for a formula has an apostrophe in front.

    Raises:
        RankingError: a score that is not finite, an id that UTF-8 cannot express, or `per_query`
            asked of a ranking that has none.
    """
    path = Path(path)
    if per_query and ranking.per_query is None:
        raise RankingError(
            f"this ranking ({ranking.method or 'no method'}) has no per-query scores; save it "
            "without per_query=True, or keep them at any size with rank(..., per_query=True)"
        )
    infinite = np.flatnonzero(~np.isfinite(ranking.scores))
    if len(infinite):
        raise RankingError(
            f"{len(infinite)} of {len(ranking.scores)} samples have no finite score: "
            f"{first_few(ranking.sample_ids[infinite].tolist())}; "
            "leave them out knowingly with ranking.finite().save(...)"
        )
    order = ranking.order
    try:
        if per_query:
            _save_per_query(ranking, path, order)
        _write_csv(ranking, path, order, "sample_id,score,rank", ranking.scores, ranking.ranks)
    except UnicodeEncodeError as error:
        raise RankingError(
            f"a sample id cannot be written as UTF-8 ({error}); rename the ids of the pool"
        ) from error


def save_confidence(ranking: Ranked, path: str | os.PathLike[str]) -> None:
    """Write `path` as CSV `sample_id,confidence`, best sample first; replaced as a whole.

    Raises:
        RankingError: the method that made the ranking states none.
    """
    if ranking.confidence is None:
        raise RankingError(f"a ranking by {ranking.method or 'no method'} has no confidence")
    _write_csv(ranking, Path(path), ranking.order, "sample_id,confidence", ranking.confidence)


def load(
    path: str | os.PathLike[str], per_query: bool = False, allow_missing: bool = False
) -> Loaded:
    """Read a ranking; ids that are all canonical integers become int64, else str.

    Columns `sample_id` and `score` are needed. Where `rank` is given it must agree with the
    scores and settles ties; the samples then come in its order. With `allow_missing` a score may
    be empty, NaN or infinite (from elsewhere: `save` writes none), and empty is read as NaN.

    Raises:
        RankingError: names the file, and where it applies the line: no such file, missing columns,
            repeated ids, a score that is not a finite number, ranks that contradict the scores.
    """
    path = Path(path)
    keys, scores, ranks, lines = _read(path, allow_missing)
    if not keys:
        raise RankingError(f"{path}: no samples below the header; was the ranking written fully?")
    if again := repeated(keys):
        second = [place for place, key in enumerate(keys) if key == again[0]][1]
        raise RankingError(
            f"{path}, line {lines[second]}: sample_id {again[0]!r} occurs a second time "
            f"({len(again)} repeated ids in all); keep one score per sample"
        )
    if ranks is not None:
        order = sorted(range(len(keys)), key=ranks.__getitem__)
        for better, worse in pairwise(order):
            if scores[worse] > scores[better]:
                raise RankingError(
                    f"{path}, line {lines[worse]}: rank {ranks[worse]} has score {scores[worse]!r},"
                    f" more than rank {ranks[better]} with {scores[better]!r}; rank 1 is the "
                    "highest score, remove the rank column to have ranks computed"
                )
        keys = [keys[place] for place in order]
        scores = [scores[place] for place in order]
    matrix, query_ids = _load_per_query(path, keys, scores) if per_query else (None, None)
    return Loaded(parse_ids(keys), np.array(scores), matrix, query_ids)


def _write_csv(
    ranking: Ranked, path: Path, order: NDArray[np.int64], header: str, *columns: NDArray[np.number]
) -> None:
    with durable_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{header}\n")
        for start in range(0, len(order), _BLOCK):
            some = order[start : start + _BLOCK]
            values = [column[some].tolist() for column in columns]
            for key, *cells in zip(id_keys(ranking.sample_ids[some]), *values, strict=True):
                file.write(f"{quoted(key)},{','.join(map(repr, cells))}\n")


def _read(
    path: Path, allow_missing: bool
) -> tuple[list[str], list[float], list[int] | None, list[int]]:
    """Ids, scores, ranks (None without that column) and line numbers of a CSV."""
    keys: list[str] = []
    scores: list[float] = []
    ranks: list[int] = []
    lines: list[int] = []
    reader = None
    if why := why_no_file(path):
        raise RankingError(f"{path}: {why}; run a valuation first, or name its ranking.csv")
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(file), strict=True)
            header = next(reader, [])
            missing = [name for name in ("sample_id", "score") if header.count(name) != 1]
            missing += ["rank"] if header.count("rank") > 1 else []
            if missing:
                raise RankingError(
                    f"{path}, line 1: needs the columns sample_id and score once each (and may "
                    f"have rank), but its header is {header!s:.300}; missing or repeated: "
                    f"{missing}"
                )
            id_column, score_column = header.index("sample_id"), header.index("score")
            rank_column = header.index("rank") if "rank" in header else None
            for fields in reader:
                if not fields:
                    continue
                where = f"{path}, line {reader.line_num}"
                if len(fields) != len(header):
                    raise RankingError(
                        f"{where}: {len(fields)} fields under {len(header)} columns; "
                        "was the file cut off?"
                    )
                keys.append(from_cell(fields[id_column]))
                scores.append(_number(fields[score_column], where, allow_missing))
                lines.append(reader.line_num)
                if rank_column is not None:
                    ranks.append(_whole(fields[rank_column], where))
    except (OSError, UnicodeDecodeError) as error:
        raise RankingError(f"{path}: cannot be read as a UTF-8 CSV file ({error})") from error
    except csv.Error as error:
        line = reader.line_num if reader is not None else 1
        raise RankingError(f"{path}, line {line}: not valid CSV ({error})") from error
    return keys, scores, ranks if rank_column is not None else None, lines


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise OSError(f"a line of more than {LONGEST:,} characters")
        yield line


def _number(text: str, where: str, allow_missing: bool) -> float:
    if allow_missing and text.strip().lower() in _MISSING:
        return float(text) if text.strip() else math.nan
    try:
        # float() takes the underscores of Python literals; no score file means them.
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RankingError(
            f"{where}: score {text!r:.60} is not a finite number; correct or remove it"
        )
    return value


def _whole(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) < 1:
        raise RankingError(f"{where}: rank {text!r:.60} is not a whole number from 1 upwards")
    return int(text)


def _per_query_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.per_query.npz")


def _text_array(ids: IdArray | None) -> NDArray[np.uint8]:
    # JSON bytes keep the type and every character of an id without pickling an object array.
    listed = None if ids is None else ids.tolist()
    return np.frombuffer(json.dumps(listed).encode(), dtype=np.uint8)


def _save_per_query(ranking: Ranked, path: Path, order: NDArray[np.int64]) -> None:
    assert ranking.per_query is not None
    with durable_path(_per_query_path(path)) as part:
        np.savez(
            part,
            per_query=ranking.per_query[:, order],
            scores=ranking.scores[order],
            sample_ids=_text_array(ranking.sample_ids[order]),
            query_ids=_text_array(ranking.query_ids),
        )


def _load_per_query(
    path: Path, keys: list[str], scores: list[float]
) -> tuple[NDArray[np.floating], IdArray | None]:
    beside = _per_query_path(path)
    if why := why_no_file(beside):
        raise RankingError(f"{beside}: {why}; save the ranking with per_query=True first")
    try:
        refuse_holes(beside)
        with zipfile.ZipFile(beside) as archive:
            matrix = _stored(archive, "per_query")
            saved_scores = _stored(archive, "scores")
            saved_ids = json.loads(_stored(archive, "sample_ids").tobytes())
            listed = json.loads(_stored(archive, "query_ids").tobytes())
        if not isinstance(saved_ids, list):
            raise ValueError(f"its sample ids are a {type(saved_ids).__name__}")
        query_ids = None if listed is None else as_id_array(listed)
        rows = len(matrix) if query_ids is None and matrix.ndim else len(listed or ())
        if matrix.dtype.kind != "f" or matrix.shape != (rows, len(saved_ids)):
            raise ValueError(
                f"per_query is {matrix.dtype} of shape {matrix.shape}; expected floats "
                f"[queries, samples] = [{rows}, {len(saved_ids)}]"
            )
    except _DAMAGED as error:
        raise RankingError(
            f"{beside}: not a file of per-query scores ({error}); save the ranking again"
        ) from error
    if [str(item) for item in saved_ids] != keys or saved_scores.tolist() != scores:
        raise RankingError(
            f"{beside}: belongs to another ranking than {path.name}; "
            "save both together with per_query=True"
        )
    return matrix, query_ids


# What zipfile, NumPy's header parser and json raise about content that is not theirs.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    SyntaxError,
    RecursionError,
    NotImplementedError,
    zipfile.BadZipFile,
)


def _stored(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of an ``.npz``, never larger than the file that holds it.

    `numpy.load` would take the memory that a header declares, and would unpack a member of any
    size; `save` compresses none.
    """
    info = archive.getinfo(f"{name}.npy")
    assert archive.fp is not None
    size = archive.fp.seek(0, os.SEEK_END)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
        raise ValueError(f"its member {name} is compressed or declares {info.file_size:,} bytes")
    content = io.BytesIO(archive.read(info))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError(f"its member {name} is of another NumPy format")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"its member {name} is {dtype} of shape {shape}")
    values = np.frombuffer(content.getbuffer()[content.tell() :], dtype, math.prod(shape))
    return values.reshape(shape, order="F" if by_column else "C")
