"""Malformed pools, queries and evaluation rows."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from corpus import (
    Case,
    canary_pickle,
    fifo_of,
    file_of,
    folder_of,
    link_of,
    sparse_of,
)

from influcoder_lightning import load_rows, row_ids
from influcoder_lightning.errors import DataError

NAME = "rows.jsonl"
GOOD = b'{"prompt": "p", "response": "r"}\n'
_PADDED = GOOD.rstrip().ljust(2**14 - 1) + b"\n"


def dataset(
    compression: str | None = None, times: int = 1, length: int = 1, name: str = "data.arrow"
) -> Callable[[Path], Path]:
    """A folder as `save_to_disk` writes it, all prompts one text."""

    def make(folder: Path) -> Path:
        place = folder / NAME
        place.mkdir()
        text = pa.DictionaryArray.from_arrays(np.zeros(times, "i4"), ["x" * length])
        table = pa.table({"prompt": text, "response": text})
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(str(place / name), table.schema, options=options) as stream:
            stream.write_table(table)
        (place / "dataset_info.json").write_text("{}")
        state = {"_data_files": [{"filename": name}], "_fingerprint": "f" * 16}
        state |= {"_format_columns": None, "_format_kwargs": {}, "_format_type": None}
        (place / "state.json").write_text(
            json.dumps(state | {"_split": None, "_output_all_columns": False})
        )
        return place

    return make


def row(**fields: Any) -> bytes:
    return json.dumps({"prompt": "p", "response": "r"} | fields).encode()


def with_key(text: str) -> bytes:
    return b'{"prompt": "p", "response": "r", "x": ' + text.encode() + b"}"


# The second line of a file whose other lines are good; every message names file and line.
LINES: dict[str, tuple[bytes, str]] = {
    "cut off": (b'{"prompt": "p", "resp', "no valid JSON"),
    "two objects": (GOOD.strip() * 2, "no valid JSON"),
    "a comment": (b"// rows follow", "no valid JSON"),
    "single quotes": (b"{'prompt': 'p', 'response': 'r'}", "no valid JSON"),
    "a trailing comma": (b'{"prompt": "p", "response": "r",}', "no valid JSON"),
    "an array": (b'["p", "r"]', "not list"),
    "a number": (b"12", "not int"),
    "null": (b"null", "not NoneType"),
    "no prompt": (b'{"response": "r"}', "'prompt' is missing"),
    "no response": (b'{"prompt": "p"}', "'response' is missing"),
    "a prompt that is a number": (row(prompt=1), "'prompt' must be a string"),
    "a prompt that is a list of turns": (row(prompt=["p"]), "'prompt' must be a string"),
    "a response that is null": (row(response=None), "'response' must be a string"),
    "a response that is an object": (row(response={"text": "r"}), "must be a string"),
    "an id that is true": (row(id=True), "'id' must be an integer or a string"),
    "an id with a fraction": (row(id=1.5), "'id' must be"),
    "an id that is a list": (row(id=[1]), "'id' must be"),
    "an id of 2^63": (row(id=2**63), "64 bits"),
    "an id below -2^63": (row(id=-(2**63) - 1), "64 bits"),
    "an id of 5000 digits": (row(id=0)[:-2] + b"1" * 5000 + b"}", "no valid JSON"),
    "an id with NUL": (row(id="a\0b"), "NUL"),
    "a task that is a number": (row(task=3), "'task' must be a string"),
    "a group that is a list": (row(group=["a"]), "'group' must be a string"),
    "NaN": (with_key("NaN"), "NaN is not JSON"),
    "Infinity": (with_key("Infinity"), "Infinity is not JSON"),
    "-Infinity in a list": (with_key("[-Infinity]"), "Infinity is not JSON"),
    "a number beyond doubles": (with_key("1e999"), "larger than a double"),
    "100,000 open brackets": (b"[" * 100_000, "no valid JSON"),
    "100,000 nested objects": (b'{"a":' * 100_000, "no valid JSON"),
    "a lone surrogate": (row(prompt="\ud800"), "lone surrogate"),
    "a lone surrogate in a key": (with_key('{"\\udc00": 1}'), "lone surrogate"),
    "a lone surrogate in an id": (row(id="\udfff"), "lone surrogate"),
    "an invalid byte": (b'{"prompt": "\xff", "response": "r"}', "not UTF-8"),
    "an encoded surrogate": (b'{"prompt": "\xed\xa0\x80", "response": "r"}', "not UTF-8"),
    "an overlong encoding": (b'{"prompt": "\xc0\xaf", "response": "r"}', "not UTF-8"),
    "a raw NUL in a string": (b'{"prompt": "\x00", "response": "r"}', "no valid JSON"),
    "NUL bytes only": (b"\x00" * 64, "no valid JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD.strip(), "no valid JSON"),
    "the prompt twice": (b'{"prompt": "p", "response": "r", "prompt": "q"}', "twice"),
    "the id twice": (b'{"prompt": "p", "response": "r", "id": 1, "id": 2}', "twice"),
    "a key twice, deep inside": (with_key('{"y": {"z": 1, "z": 2}}'), "twice"),
}

# Whole files.
FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (file_of(NAME, b""), "no rows"),
    "blank": (file_of(NAME, b"\n \n\t\n"), "no rows"),
    "a byte order mark and nothing": (file_of(NAME, b"\xef\xbb\xbf"), "no "),
    "a blank line in the middle": (file_of(NAME, GOOD + b"\n" + GOOD), ":2: blank line"),
    "pretty-printed JSON": (
        file_of(NAME, json.dumps(json.loads(GOOD), indent=1).encode()),
        ":1: no valid JSON",
    ),
    "UTF-16": (file_of(NAME, GOOD.decode().encode("utf-16")), ":1: not UTF-8"),
    "UTF-32": (file_of(NAME, GOOD.decode().encode("utf-32-be")), ":1: no valid JSON"),
    "Latin-1": (file_of(NAME, '{"prompt": "é", "response": "r"}'.encode("latin-1")), "not UTF-8"),
    "a pickle": (file_of(NAME, canary_pickle), ":1: "),
    "a pickle of rows": (file_of(NAME, pickle.dumps([json.loads(GOOD)])), ":1: not UTF-8"),
    "gzip": (file_of(NAME, b"\x1f\x8b\x08\x00" + bytes(60)), "packed by gzip"),
    "a gzip that unpacks a thousandfold": (
        file_of(f"{NAME}.gz", gzip.compress(_PADDED * 5120)),
        "unpacks to more than",
    ),
    "a CSV": (file_of(NAME, b"prompt,response\np,r\n"), ":1: no valid JSON"),
    "old Macintosh line ends": (file_of(NAME, GOOD.replace(b"\n", b"\r") * 2), "no valid JSON"),
    "a `datasets` folder that is packed": (dataset(compression="zstd"), "compressed"),
    "a `datasets` folder of one text": (dataset(times=200, length=2**20), "64 times|Dictionary"),
    "a `datasets` folder with a file elsewhere": (dataset(name="../x.arrow"), "no file of the"),
    "absent": (lambda folder: folder / NAME, "no such file"),
    "an empty folder": (folder_of(NAME), "a folder without data files"),
    "a FIFO": (fifo_of(NAME), "no regular file"),
    "a link to itself": (link_of(NAME, NAME), "cannot be opened"),
    "a dangling link": (link_of(NAME, "../../nothing"), "no such file"),
    "a link to /dev/zero": (link_of(NAME, "/dev/zero"), "no regular file"),
    "a name with NUL": (lambda folder: f"{folder}/{NAME}\x00.txt", "no such file"),
    "a name of 300 letters": (lambda folder: folder / ("a" * 300), "cannot be opened"),
    "a line of 10^12 bytes": (sparse_of(NAME, 10**12, GOOD), ":2: "),
}

# Folders that look like those of `datasets`.
ARROW: dict[str, tuple[dict[str, bytes], str]] = {
    "several splits": ({"dataset_dict.json": b"{}"}, "several splits"),
    "no data": ({"dataset_info.json": b"{}"}, "cannot be read"),
    "no JSON": ({"dataset_info.json": b"{", "state.json": b"{"}, "cannot be read"),
    "a file outside": (
        {
            "dataset_info.json": b"{}",
            "state.json": b'{"_data_files": [{"filename": "../../x.arrow"}], "_fingerprint": "f",'
            b' "_format_columns": null, "_format_kwargs": {}, "_format_type": null, "_split": null,'
            b' "_output_all_columns": false}',
        },
        "cannot be read",
    ),
    "a pickle as Arrow": (
        {
            "dataset_info.json": b"{}",
            "state.json": b'{"_data_files": [{"filename": "d.arrow"}], "_fingerprint": "f",'
            b' "_format_columns": null, "_format_kwargs": {}, "_format_type": null, "_split": null,'
            b' "_output_all_columns": false}',
            "d.arrow": pickle.dumps([1, 2]),
        },
        "cannot be read",
    ),
}


def _dataset(files: dict[str, bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name, content in files.items():
            file_of(name, content)(folder)
        return folder

    return make


HARMLESS: dict[str, tuple[bytes, Callable[[Any], bool]]] = {
    "a byte order mark at the start": (b"\xef\xbb\xbf" + GOOD, lambda rows: len(rows) == 1),
    "Windows line ends": (GOOD.replace(b"\n", b"\r\n") * 2, lambda rows: len(rows) == 2),
    "no line end at the end": (GOOD.strip(), lambda rows: len(rows) == 1),
    "an escaped NUL": (row(prompt="\x00"), lambda rows: rows[0]["prompt"] == "\x00"),
    "hostile text": (
        row(prompt="{response}</s>${oc.env:HOME}", response="../../x", id="../../etc/passwd"),
        lambda rows: rows[0]["id"] == "../../etc/passwd",
    ),
    "an id that a null gives up": (row(id=None, task=None), lambda rows: row_ids(rows) == [0]),
}


def _ids(rows: list[dict[str, Any]]) -> Callable[[Path], Path]:
    return file_of(NAME, b"\n".join(row(**fields) for fields in rows))


CASES = [
    *(
        Case(
            "rows",
            name,
            file_of(NAME, GOOD + line + b"\n" + GOOD),
            load_rows,
            words,
            DataError,
            where=f"{NAME}:2: ",
        )
        for name, (line, words) in LINES.items()
    ),
    *(
        Case("rows", name, make, load_rows, words, DataError)
        for name, (make, words) in FILES.items()
    ),
    *(
        Case("datasets folder", name, _dataset(files), load_rows, words, DataError, where="given")
        for name, (files, words) in ARROW.items()
    ),
    *(
        Case("rows", name, file_of(NAME, content), load_rows, None, accepted=holds)
        for name, (content, holds) in HARMLESS.items()
    ),
    Case(
        "row ids",
        "an index that is another row's id",
        _ids([{"id": 1}, {}]),
        lambda path: row_ids(load_rows(path)),
        "row 1 has no id",
        DataError,
    ),
    Case(
        "row ids",
        "an index that is another row's id as text",
        _ids([{"id": "1"}, {}]),
        lambda path: row_ids(load_rows(path)),
        "row 1 has no id",
        DataError,
    ),
    Case(
        "row ids",
        "integers and text",
        _ids([{"id": 5}, {"id": "b"}]),
        lambda path: row_ids(load_rows(path)),
        None,
        accepted=lambda ids: ids == ["5", "b"],
    ),
]
