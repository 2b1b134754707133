"""Malformed score files from elsewhere: CSV, JSON, NumPy, PyTorch and Parquet."""

from __future__ import annotations

import functools
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from corpus import (
    Canary,
    Case,
    canary_path,
    canary_pickle,
    fifo_of,
    file_of,
    flipped,
    folder_of,
    link_of,
    sparse_of,
)

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.score_files import load_scores


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_header(text: str, version: bytes = b"\x01\x00") -> bytes:
    header = (text.ljust(117) + "\n").encode("latin-1")
    width = 2 if version == b"\x01\x00" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header


def shaped(shape: str, descr: str = "'<f8'") -> bytes:
    return npy_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")


@functools.cache
def pt() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.arange(8.0), buffer)
    return buffer.getvalue()


def torch_of(value: Callable[[Path], Any], **options: Any) -> Callable[[Path], bytes]:
    def content(folder: Path) -> bytes:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantised tensors are deprecated
            torch.save(value(folder), buffer, **options)
        return buffer.getvalue()

    return content


def parquet(ids: Any, beside: str = "", **options: Any) -> Callable[[Path], bytes]:
    """Ids with scores, and a column that nobody needs."""

    def content(folder: Path) -> bytes:
        columns = {"sample_id": ids, "score": np.arange(len(ids), dtype="f8")}
        table = pa.table(columns | ({"beside": [beside] * len(ids)} if beside else {}))
        chosen = dict(options)
        if encoding := chosen.pop("column_encoding", None):
            chosen["column_encoding"] = {"sample_id": encoding}
        sink = io.BytesIO()
        pq.write_table(table, sink, **chosen)
        return sink.getvalue()

    return content


_REPEATED = pa.DictionaryArray.from_arrays(np.zeros(10_000, "i4"), ["x" * 2**19])
_BEGINNINGS = [f"{'x' * 2**18}{i}" for i in range(100)]


def parquet_of_nulls(n: int) -> Callable[[Path], bytes]:
    """A small file of many rows, none of which has a value."""

    def content(folder: Path) -> bytes:
        sink = io.BytesIO()
        some = 10**6
        columns = {"sample_id": pa.nulls(some, pa.int64()), "score": pa.nulls(some, pa.float64())}
        table = pa.table(columns)
        with pq.ParquetWriter(sink, table.schema) as writer:
            for _ in range(n // some):
                writer.write_table(table)
        return sink.getvalue()

    return content


def lying_parquet(folder: Path) -> bytes:
    """A page of 80 MB whose footer tells of a kilobyte."""
    honest = parquet(["0" * 5 * 2**24], use_dictionary=False, compression="zstd")(folder)
    sink = io.BytesIO(honest)
    size = pq.ParquetFile(sink).metadata.row_group(0).column(0).total_uncompressed_size

    def zigzag(value: int) -> bytes:
        value, out = value * 2, b""
        while value > 127:
            value, out = value >> 7, out + bytes([value & 127 | 128])
        return out + bytes([value])

    at = honest.rindex(zigzag(size))  # of the footer; padded, so that nothing moves
    short = zigzag(size)
    small = bytes([short[0] & 127 | 128] + [128] * (len(short) - 2) + [0])
    return honest[:at] + small + honest[at + len(short) :]


def object_array(folder: Path) -> bytes:
    return npy(np.array([Canary(canary_path(folder))]), allow_pickle=True)


def bomb(folder: Path) -> bytes:
    """A torch archive whose storage unpacks to far more than the file has."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in zipfile.ZipFile(io.BytesIO(pt())).namelist():
            content = zipfile.ZipFile(io.BytesIO(pt())).read(name)
            archive.writestr(name, bytes(10**7) if name.endswith("data/0") else content)
    return buffer.getvalue()


NPY: dict[str, tuple[Any, str]] = {
    "empty": (b"", "cannot be read as an array"),
    "magic only": (b"\x93NUMPY", "cannot be read as an array"),
    "no magic": (b"1 2 3", "cannot be read as an array"),
    "a pickle": (canary_pickle, "cannot be read as an array"),
    "objects": (object_array, "cannot be read as an array"),
    "10^12 rows": (shaped("(1000000000000,)"), "cannot be read as an array"),
    "a negative shape": (shaped("(-1,)"), "cannot be read as an array"),
    "a shape beyond int64": (shaped(f"({2**70},)"), "cannot be read as an array"),
    "a product beyond int64": (shaped(f"({2**40}, {2**40})"), "cannot be read as an array"),
    "a shape of text": (shaped("('a',)"), "cannot be read as an array"),
    "code in the header": (
        npy_header("__import__('os').system('true')"),
        "cannot be read as an array",
    ),
    "a deep header": (npy_header("(" * 5000), "cannot be read as an array"),
    "a header of 4 GB": (
        b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{",
        "cannot be read as an array",
    ),
    "version 9": (npy_header("{}", b"\x09\x00"), "cannot be read as an array"),
    "cut off": (npy(np.zeros(100))[:-8], "cannot be read as an array"),
    "text": (npy(np.array(["a"])), "expected scores"),
    "complex numbers": (npy(np.array([1j])), "expected scores"),
    "dates": (npy(np.array(["2024-01-01"], dtype="M8[D]")), "expected scores"),
    "records": (npy(np.zeros(3, dtype=[("score", "f8")])), "expected scores"),
    "no dimension": (npy(np.float64(1)), "expected scores"),
    "three dimensions": (npy(np.zeros((2, 2, 2))), "expected scores"),
    "64 dimensions": (shaped(f"({'1, ' * 64})") + bytes(8), "cannot be read|expected scores"),
    "no samples": (npy(np.zeros((3, 0))), "given/scores.npy"),
    "an archive": (torch_of(lambda folder: torch.zeros(2)), "cannot be read as an array"),
}

PT: dict[str, tuple[Any, str]] = {
    "empty": (b"", "cannot be read as a plain tensor"),
    "a pickle": (canary_pickle, "cannot be read as a plain tensor"),
    "an object": (torch_of(lambda folder: Canary(canary_path(folder))), "plain tensor"),
    "an object in the old format": (
        torch_of(lambda folder: Canary(canary_path(folder)), _use_new_zipfile_serialization=False),
        "plain tensor",
    ),
    "a dictionary": (torch_of(lambda folder: {"scores": torch.ones(2)}), "holds a dict"),
    "a list": (torch_of(lambda folder: [1.0]), "holds a list"),
    "complex numbers": (torch_of(lambda folder: torch.tensor([1j])), "real numbers"),
    "a sparse tensor": (torch_of(lambda folder: torch.eye(3).to_sparse()), "dense tensor"),
    "an expanded view": (
        torch_of(lambda folder: torch.zeros(1).expand(10**6, 10**6)),
        "expanded",
    ),
    "a meta tensor": (torch_of(lambda folder: torch.zeros(10**12, device="meta")), "dense|plain"),
    "a quantised tensor": (
        torch_of(lambda folder: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
        "dense|plain",
    ),
    "no element": (torch_of(lambda folder: torch.zeros(0)), "expected scores"),
    "no dimension": (torch_of(lambda folder: torch.tensor(1.0)), "expected scores"),
    "a cut archive": (pt()[: len(pt()) // 2], "plain tensor"),
    "a TorchScript-like archive": (b"PK\x03\x04 not an archive", "plain tensor"),
    "a storage larger than declared": (bomb, "plain tensor"),
}

JSON: dict[str, tuple[Any, str]] = {
    "empty": (b"", "cannot be read as JSON"),
    "cut off": (b'{"a": 1', "cannot be read as JSON"),
    "100,000 open brackets": (b"[" * 100_000, "cannot be read as JSON"),
    "invalid UTF-8": (b'{"\xff": 1}', "cannot be read as JSON"),
    "a pickle": (canary_pickle, "cannot be read as JSON"),
    "an id twice": (b'{"a": 1, "a": 2}', "twice"),
    "an empty object": (b"{}", "expected"),
    "an empty list": (b"[]", "expected"),
    "a number": (b"3", "expected"),
    "scores that are text": (b'{"a": "0.5"}', "expected a number"),
    "scores that are true": (b'{"a": true}', "expected a number"),
    "scores that are objects": (b'{"a": {"score": 1}}', "expected a number"),
    "scores without a number": (b'{"a": []}', "expected a number"),
    "nested scores": (b'{"a": [[1]]}', "expected a number"),
    "a number of 400 digits": (b'{"a": 1' + b"0" * 400 + b"}", "expected a number"),
    "a number of 5000 digits": (b'{"a": 1' + b"0" * 5000 + b"}", "cannot be read as JSON"),
    "ragged rows": (b"[[1, 2], [3]]", "different lengths"),
    "rows and numbers": (b"[[1, 2], 3]", "different lengths"),
    "a list with text": (b'[1, "x"]', "row 0"),
    "a lone surrogate as id": (b'{"\\ud800": 1, "b": 2}', "surrogate"),
}

CSV: dict[str, tuple[Any, str]] = {
    "empty": (b"", "needs the columns"),
    "a pickle": (canary_pickle, "line 1|UTF-8"),
    "a huge field": (b"sample_id,score\n" + b"a" * 200_000 + b",1\n", "not valid CSV"),
}

PARQUET: dict[str, tuple[Any, str]] = {
    "empty": (b"", "cannot be read as Parquet"),
    "a pickle": (canary_pickle, "cannot be read as Parquet"),
    "magic only": (b"PAR1", "cannot be read as Parquet"),
    "a footer of 2 GB": (b"PAR1" + (2**31 - 1).to_bytes(4, "little") + b"PAR1", "as Parquet"),
    "a footer of rubbish": (b"PAR1" + b"\xff" * 40 + b"\x28\0\0\0PAR1", "as Parquet"),
    "one text four thousand times": (parquet(_REPEATED), "occurs twice"),
    "one long beginning a thousand times": (
        parquet(_BEGINNINGS, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY"),
        "DELTA_BYTE_ARRAY",
    ),
    "zeros that pack a thousandfold": (
        parquet(["0" * 5 * 2**24], use_dictionary=False, compression="zstd"),
        "may unpack to",
    ),
    "as many rows as fit": (parquet_of_nulls(2 * 10**7), "may unpack to"),
    "pages larger than the footer says": (lying_parquet, "pages"),
    "a column beside that packs a thousandfold": (
        parquet(["a", "a"], beside="0" * 5 * 2**24, compression="zstd"),
        "occurs twice",
    ),
}

SHARDS: dict[str, tuple[list[Any], str]] = {
    "no file": ([], "no score file"),
    "ids twice": ([{"a": 1}, {"a": 2}], "repeated"),
    "positions and ids": ([{"a": 1}, [1, 2]], "by position and others by id"),
}


def _shards(contents: list[Any]) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        return [
            file_of(f"{place}.json", json.dumps(content).encode())(folder)
            for place, content in enumerate(contents)
        ]

    return make


def _case(kind: str, name: str, content: Any, words: str | None, **options: Any) -> Case:
    make = file_of(f"scores{kind}", content)
    if words is not None:
        options |= {"error": RankingError, "where": f"scores{kind}"}
    return Case(f"scores{kind}", name, make, load_scores, words, **options)


def _special(kind: str) -> list[Case]:
    name = f"scores{kind}"
    made = {
        "a folder": (folder_of(name), "ranking.csv"),
        "a FIFO": (fifo_of(name), "no regular file"),
        "a link to itself": (link_of(name, name), "cannot be opened"),
        "a link to /dev/zero": (link_of(name, "/dev/zero"), "no regular file"),
        "10^12 bytes": (sparse_of(name, 10**12), name),
        "absent": (lambda folder: folder / name, "no such file"),
    }
    return [
        Case(name, what, make, load_scores, words, RankingError, where=name)
        for what, (make, words) in made.items()
    ]


def _flips(kind: str, data: bytes, positions: range) -> list[Case]:
    """Damage that a checksum or a parser must notice: the first bytes hold the structure."""
    return [
        _case(kind, f"bit {at % 8} of byte {at} flipped", flipped(data, at, at), "cannot be read")
        for at in positions
    ]


CASES = [
    *(_case(".npy", name, *parts) for name, parts in NPY.items()),
    *(_case(".pt", name, *parts) for name, parts in PT.items()),
    *(_case(".json", name, *parts) for name, parts in JSON.items()),
    *(_case(".csv", name, *parts) for name, parts in CSV.items()),
    *(_case(".parquet", name, *parts) for name, parts in PARQUET.items()),
    *_flips(".npy", npy(np.zeros(4)), range(6)),
    *_flips(".pt", pt(), range(4)),
    *(case for kind in (".npy", ".pt", ".json", ".csv", ".parquet") for case in _special(kind)),
    *(
        Case("shards", name, _shards(contents), load_scores, words, RankingError)
        for name, (contents, words) in SHARDS.items()
    ),
    Case(
        "scores",
        "a run folder whose ranking is a FIFO",
        lambda folder: fifo_of("ranking.csv")(folder).parent,
        load_scores,
        "no ranking.csv|no regular file",
        RankingError,
    ),
    Case(
        "scores.npy",
        "an array that lies in a hole",
        sparse_of("scores.npy", 128 + 2**28, shaped(f"({2**28},)", "'|i1'")),
        load_scores,
        "declares 268,435,584 bytes, of which",
        RankingError,
        where="scores.npy",
    ),
    Case("scores", "no suffix", file_of("s", b"1"), load_scores, "unknown kind", RankingError),
    _case(
        ".json",
        "NaN, null and infinity",
        b'{"a": NaN, "b": null, "c": [1, -Infinity], "d": 2}',
        None,
        accepted=lambda ranking: ranking.n_scored == 1,
    ),
    _case(
        ".json",
        "a byte order mark",
        b'\xef\xbb\xbf{"a": 1}',
        None,
        accepted=lambda ranking: ranking.top_k(1) == ["a"],
    ),
    _case(
        ".json",
        "ids beyond int64",
        b'{"9223372036854775808": 1, "1": 2}',
        None,
        accepted=lambda ranking: ranking.top_k(1) == ["1"],
    ),
]
