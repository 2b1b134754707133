"""Malformed rankings: ranking.csv, the per-query scores beside it, and what is done with them."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus import (
    Canary,
    Case,
    canary_path,
    canary_pickle,
    fifo_of,
    file_of,
    folder_of,
    link_of,
    sparse_of,
)

from influcoder_lightning import Ranking, select
from influcoder_lightning.errors import RankingError
from influcoder_lightning.selection.selection import select_rows

NAME = "ranking.csv"
HEAD = b"sample_id,score,rank\n"
GOOD = HEAD + b"a,2.0,1\nb,1.0,2\n"

FILES: dict[str, tuple[Any, str]] = {
    "empty": (b"", "line 1: needs the columns"),
    "a header alone": (HEAD, "no samples"),
    "no header": (b"a,2.0,1\n", "line 1: needs the columns"),
    "the column score twice": (b"sample_id,score,score\na,1,1\n", "once each"),
    "the column rank twice": (b"sample_id,score,rank,rank\na,1,1,7\n", "once"),
    "a row cut off": (GOOD + b"c", "line 4: 1 fields under 3"),
    "a row too long": (GOOD + b"c,0.5,3,4\n", "line 4: 4 fields"),
    "an open quote": (GOOD + b'"c,0.5,3\n', "not valid CSV"),
    "text after a quote": (GOOD + b'"c"x,0.5,3\n', "not valid CSV"),
    "a score that is text": (HEAD + b"a,high,1\n", "line 2: score 'high'"),
    "a score that is NaN": (HEAD + b"a,nan,1\n", "line 2: score 'nan'"),
    "an infinite score": (HEAD + b"a,inf,1\n", "line 2: score 'inf'"),
    "a score beyond doubles": (HEAD + b"a,1e999,1\n", "line 2: score '1e999'"),
    "a score with underscores": (HEAD + b"a,1_0,1\n", "line 2: score '1_0'"),
    "a hexadecimal score": (HEAD + b"a,0x10,1\n", "line 2: score '0x10'"),
    "no score": (HEAD + b"a,,1\n", "line 2: score ''"),
    "a rank of zero": (HEAD + b"a,1,0\n", "line 2: rank '0'"),
    "a rank below zero": (HEAD + b"a,1,-1\n", "line 2: rank '-1'"),
    "a rank with a fraction": (HEAD + b"a,1,1.5\n", "line 2: rank"),
    "a rank of 5000 digits": (HEAD + b"a,1," + b"1" * 5000 + b"\n", "line 2: rank"),
    "a rank in other digits": (HEAD + "a,1,\u0661\n".encode(), "line 2: rank"),
    "ranks against the scores": (HEAD + b"a,1.0,1\nb,2.0,2\n", "line 3: rank 2"),
    "an id twice": (HEAD + b"a,2,1\na,1,2\n", "line 3: sample_id 'a'"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "UTF-8"),
    "an invalid byte": (HEAD + b"\xff,1,1\n", "UTF-8"),
    "an encoded surrogate": (HEAD + b"\xed\xa0\x80,1,1\n", "UTF-8"),
    "a pickle": (canary_pickle, "line 1|UTF-8"),
    "NUL bytes": (bytes(100), "line 1"),
    "a field of 200,000 letters": (HEAD + b"a" * 200_000 + b",1,1\n", "not valid CSV"),
    "JSON": (b'{"a": 1}', "line 1: needs the columns"),
}

SPECIAL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder / NAME, "no such file"),
    "a folder": (folder_of(NAME), "a folder"),
    "a FIFO": (fifo_of(NAME), "no regular file"),
    "a link to itself": (link_of(NAME, NAME), "cannot be opened"),
    "a link to /dev/zero": (link_of(NAME, "/dev/zero"), "no regular file"),
    "a name with NUL": (lambda folder: Path(f"{folder}/{NAME}\0"), "no such file"),
    "a line of 10^12 bytes": (sparse_of(NAME, 10**12, GOOD), NAME),
}

HARMLESS: dict[str, tuple[bytes, Callable[[Any], bool]]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, lambda r: r.top_k(2) == ["a", "b"]),
    "hostile ids": (
        HEAD + b'../../etc/passwd,2,1\n"=cmd|x!A1\r\n\x00",1,2\n',
        lambda r: r.top_k(2) == ["../../etc/passwd", "=cmd|x!A1\r\n\x00"],
    ),
    "ids of both kinds": (HEAD + b"1,2,1\nb,1,2\n", lambda r: r.top_k(1) == ["1"]),
    "an id beyond int64": (
        HEAD + b"9223372036854775808,2,1\n1,1,2\n",
        lambda r: r.top_k(1) == ["9223372036854775808"],
    ),
}


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _json(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


PARTS = {
    "per_query": np.ones((1, 2)),
    "scores": np.array([2.0, 1.0]),
    "sample_ids": _json(["a", "b"]),
    "query_ids": _json(["q"]),
}


def _huge(folder: Path) -> bytes:
    """An archive whose array declares 10^12 rows."""
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2), }".ljust(117)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        content = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.encode() + b"\n"
        archive.writestr("per_query.npy", content)
    return buffer.getvalue()


def _bomb(folder: Path) -> bytes:
    """An archive that unpacks to a thousand times its size: 2 GB of zeros in 2 MB."""
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2000000000,), }".ljust(117)
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("per_query.npy", "w", force_zip64=True) as member,
    ):
        member.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.encode() + b"\n")
        for _ in range(2000):
            member.write(bytes(10**6))
    return buffer.getvalue()


BESIDE: dict[str, tuple[Any, str]] = {
    "empty": (b"", "not a file of per-query scores"),
    "a pickle": (canary_pickle, "not a file of per-query scores"),
    "one array": (np.lib.format.magic(1, 0), "not a file of per-query scores"),
    "objects": (
        lambda folder: _npz(**PARTS | {"per_query": np.array([Canary(canary_path(folder))])}),
        "not a file of per-query scores",
    ),
    "an array is missing": (_npz(scores=PARTS["scores"]), "not a file of per-query scores"),
    "ids that are no JSON": (_npz(**PARTS | {"sample_ids": _json("a")[:2]}), "not a file of"),
    "ids that are a number": (_npz(**PARTS | {"sample_ids": _json(3)}), "not a file of"),
    "ids nested deeply": (
        _npz(**PARTS | {"sample_ids": np.frombuffer(b"[" * 100_000, dtype=np.uint8)}),
        "not a file of per-query scores",
    ),
    "query ids that are objects": (
        _npz(**PARTS | {"query_ids": _json([{"a": 1}])}),
        "per_query.npz",
    ),
    "query ids that are a number": (_npz(**PARTS | {"query_ids": _json(7)}), "per_query.npz"),
    "another ranking's ids": (_npz(**PARTS | {"sample_ids": _json(["a", "c"])}), "another ranking"),
    "another ranking's scores": (_npz(**PARTS | {"scores": np.ones(2)}), "another ranking"),
    "a matrix of another shape": (_npz(**PARTS | {"per_query": np.ones((1, 3))}), "per_query"),
    "a matrix of text": (_npz(**PARTS | {"per_query": np.array([["a", "b"]])}), "per_query"),
    "a matrix without dimensions": (_npz(**PARTS | {"per_query": np.float64(1)}), "per_query"),
    "10^12 rows": (_huge, "not a file of per-query scores"),
    "cut off": (_npz(**PARTS)[:-30], "not a file of per-query scores"),
    "a byte of the data changed": (
        _npz(**PARTS).replace(np.array([2.0, 1.0]).tobytes(), np.array([2.0, 1.5]).tobytes()),
        "not a file of per-query scores",
    ),
}


def _beside(content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        file_of("ranking.per_query.npz", content)(folder)
        return file_of(NAME, GOOD)(folder)

    return make


def _fifo_beside(folder: Path) -> Path:
    fifo_of("ranking.per_query.npz")(folder)
    return file_of(NAME, GOOD)(folder)


def _with_queries(path: Path) -> Ranking:
    return Ranking.load(path, per_query=True)


def _ranking() -> Ranking:
    return Ranking(["a", "b", "c"], [0.1, math.nan, 0.5])


def _call(call: Callable[[], Any]) -> tuple[Callable[[Path], Any], Callable[[Any], Any]]:
    return (lambda folder: call), (lambda made: made())


CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "no samples": (lambda: Ranking([], []), "at least one sample"),
    "an id twice, once as text": (lambda: Ranking([1, "1"], [0.0, 1.0]), "name one sample"),
    "an id that is a fraction": (lambda: Ranking([1.5, 2], [0.0, 1.0]), "position 0"),
    "an id that is bytes": (lambda: Ranking([b"a", b"b"], [0.0, 1.0]), "position 0"),
    "an id that is a list": (lambda: Ranking([["a"], ["b"]], [0.0, 1.0]), "position 0"),
    "no ids": (lambda: Ranking(None, [1.0]), "ids"),
    "one id for all": (lambda: Ranking(7, [1.0]), "ids"),
    "scores of text": (lambda: Ranking(["a"], ["high"]), "scores"),
    "scores in a table": (lambda: Ranking(["a"], [[1.0, 2.0]]), "do not fit"),
    "ragged scores": (lambda: Ranking(["a", "b"], [[1.0], [1.0, 2.0]]), "scores"),
    "complex scores": (lambda: Ranking(["a"], np.array([1j])), "scores"),
    "scores that are objects": (lambda: Ranking(["a"], [{}]), "scores"),
    "fewer scores than ids": (lambda: Ranking(["a", "b"], [1.0]), "do not fit"),
    "k of text": (lambda: _ranking().top_k("2"), "not an integer"),
    "k beyond the scored": (lambda: _ranking().top_k(3), "choose k from 1 to 2"),
    "a huge k": (lambda: select(_ranking(), "random", 10**30), "choose k from 1"),
    "a strategy that is a list": (lambda: select(_ranking(), ["top_k"], 1), "unknown selection"),
    "a threshold of text": (lambda: select(_ranking(), "threshold", threshold="x"), "threshold"),
    "a threshold of NaN": (lambda: select(_ranking(), "threshold", threshold=math.nan), "NaN"),
    "a seed below zero": (lambda: select(_ranking(), "random", 1, seed=-1), "seed"),
    "a seed of text": (lambda: select(_ranking(), "random", 1, seed="x"), "seed"),
    "groups that are lists": (
        lambda: select(_ranking(), "per_group", groups=[[1], [2], [3]], quota=1),
        "group",
    ),
    "groups that are a number": (
        lambda: select(_ranking(), "per_group", groups=5, quota=1),
        "groups",
    ),
    "a quota of text": (
        lambda: select(_ranking(), "per_group", groups=["x"] * 3, quota="1"),
        "quota",
    ),
    "a quota beyond the group": (
        lambda: select(_ranking(), "per_group", groups=["x"] * 3, quota=10**30),
        "lower the quota",
    ),
    "ids that are not in the pool": (
        lambda: select_rows([{}], ["z"], _ranking(), ["a"]),
        "not in the pool",
    ),
    "an id that UTF-8 cannot write": (
        lambda: Ranking(["\ud800"], [1.0]).save("ranking.csv"),
        "UTF-8",
    ),
}

CASES = [
    *(
        Case("ranking", name, file_of(NAME, data), Ranking.load, words, RankingError, where=NAME)
        for name, (data, words) in FILES.items()
    ),
    *(
        Case("ranking", name, make, Ranking.load, words, RankingError, where=NAME)
        for name, (make, words) in SPECIAL.items()
    ),
    *(
        Case("ranking", name, file_of(NAME, data), Ranking.load, None, accepted=holds)
        for name, (data, holds) in HARMLESS.items()
    ),
    *(
        Case("per query", name, _beside(data), _with_queries, words, RankingError, where=".npz")
        for name, (data, words) in BESIDE.items()
    ),
    Case("per query", "a FIFO", _fifo_beside, _with_queries, "no regular file", RankingError),
    *(
        Case("ranking calls", name, *_call(call), words, RankingError)
        for name, (call, words) in CALLS.items()
    ),
]
