"""Rows of instruction data: read and checked, named, written.

A row is ``{"prompt", "response", optional "id", "task", "group"}``; other keys stay as they are.
"""

import glob
import gzip
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from influcoder_lightning.data.dataset_folder import unread_dataset_rows
from influcoder_lightning.errors import DataError
from influcoder_lightning.files import LONGEST, most_unpacked, why_no_file
from influcoder_lightning.ids import is_canonical_int, unwritable

Row = dict[str, Any]
TextRow = Mapping[str, Any]
"""A row that is only read: ``prompt`` and ``response``, and whatever else it holds."""
UnreadRow = Callable[[], Row]
"""Parses and checks one row; raises the errors of `load_rows`."""

_TIMES = (
    64  # its own size that a .gz may unpack to; rows that share a long prompt pack to a fiftieth
)
_REQUIRED = ("prompt", "response")
_OPTIONAL: dict[str, tuple[type, ...]] = {"id": (int, str), "task": (str,), "group": (str,)}


def load_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Read rows from a JSONL file, or from a folder written by ``datasets`` (``save_to_disk``).

    A file whose name ends in ``.gz`` is unpacked on the way. A name with ``*``, ``?`` or ``[``
    stands for all that match it, in the order of their names. An optional field that is null
    counts as not given. Columns of a ``datasets`` folder that JSON does not know take the form that
    :mod:`~influcoder_lightning.data.json_forms` gives them.

    Raises:
        DataError: When there is nothing to read, a line is broken, or a field is missing or of the
            wrong type; names the file, the line (or row) and the field.
        ConfigError: For a ``datasets`` folder when ``datasets`` is not installed.
    """
    rows = [read() for read in unread_rows(path)]
    if not rows:
        raise DataError(f"{path}: no rows. Each line needs a JSON object with prompt and response.")
    return rows


def unread_rows(path: str | os.PathLike[str]) -> Iterator[UnreadRow]:
    """The rows of `load_rows` one after the other, none of them parsed before it is called.

    Passing over rows costs little more than reading the file, and memory does not grow.

    Raises:
        DataError, ConfigError: as `load_rows`.
    """
    for file in row_files(path):
        yield from _dataset_rows(file) if os.path.isdir(file) else _jsonl_rows(file)


def row_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files and ``datasets`` folders that a path, or a pattern of names, stands for.

    Raises:
        DataError: One is missing, or neither a regular file nor a folder.
    """
    found = [Path(path)]
    if not os.path.lexists(path) and glob.has_magic(os.fspath(path)):
        found = [Path(name) for name in sorted(glob.glob(os.fspath(path)))] or found
    for file in found:
        if (why := why_no_file(file)) and not os.path.isdir(file):
            raise DataError(f"{file}: {why}. Give a JSONL file or a `datasets` folder.")
    return found


def row_ids(rows: Sequence[TextRow]) -> list[int] | list[str]:
    """One id per row, list [N]: the row's ``id`` if given, else its zero-based index.

    All are integers or all are strings; where both kinds meet, integers become strings.

    Raises:
        DataError: When the index of a row without an id is the explicit id of another row.
    """
    return complete_ids([row.get("id") for row in rows])


def complete_ids(explicit: Sequence[int | str | None]) -> list[int] | list[str]:
    """`row_ids` of rows that give these ids [N]; None: the row has none."""
    without = [index for index, value in enumerate(explicit) if value is None]
    taken = {str(value) for value in explicit if value is not None} if without else set()
    for index in without:
        if str(index) in taken:
            raise DataError(
                f"row {index} has no id, and its index is the id of another row. Give every row "
                "an id, or none."
            )
    ids = [index if value is None else value for index, value in enumerate(explicit)]
    if all(isinstance(value, int) for value in ids):
        return ids  # type: ignore[return-value]
    _refuse_one_name_of_two_kinds(ids)
    return [str(value) for value in ids]


def _refuse_one_name_of_two_kinds(ids: Sequence[int | str]) -> None:
    """As text, which is how ids are compared, ``1`` and ``"1"`` would become one sample."""
    numbers = {value: index for index, value in enumerate(ids) if isinstance(value, int)}
    for index, value in enumerate(ids):
        if isinstance(value, str) and is_canonical_int(value) and int(value) in numbers:
            raise DataError(
                f"row {numbers[int(value)]} has the id {value} and row {index} the id "
                f'"{value}": a number and its text name one sample. Rename one of them.'
            )


def write_jsonl(rows: Iterable[TextRow], path: str | os.PathLike[str]) -> None:
    """Write one JSON object per line, UTF-8; the file appears complete or not at all.

    Raises:
        DataError: When a value has no JSON form (NaN, infinity, other objects).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for index, row in enumerate(rows):
                try:
                    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                except (TypeError, ValueError, RecursionError) as error:
                    raise DataError(f"row {index} cannot be written as JSON: {error}.") from error
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _jsonl_rows(path: Path) -> Iterator[UnreadRow]:
    blank, size = 0, 0
    packed = path.suffix == ".gz"
    try:
        file: Any = (gzip.open if packed else open)(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}).") from error
    most = most_unpacked(path, _TIMES) if packed else math.inf
    # Bytes are split at \n only: str.splitlines would also cut at U+2028 inside a string.
    with file:
        for number in count(1):
            where = f"{path}:{number}"
            if not (line := _line(file, where)):
                return
            size += len(line)
            if size > most:
                raise DataError(
                    f"{where}: unpacks to more than {most:,} bytes, {_TIMES} times what the file "
                    "has. If it is meant to, unpack it first."
                )
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                raise DataError(f"{path}:{blank}: blank line between rows. Delete it.")
            yield partial(_line_row, line, where, "utf-8-sig" if number == 1 else "utf-8")


def _line_row(line: bytes, where: str, encoding: str) -> Row:
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 at byte {error.start}. Save the file as UTF-8."
        ) from error
    return _checked_row(_parsed(text, where), where)


def _line(file: BinaryIO, where: str) -> bytes:
    try:
        line = file.readline(LONGEST + 1)
    except (OSError, EOFError, zlib.error) as error:  # the last two from a damaged .gz
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{where}: cannot be read ({reason}).") from error
    if len(line) > LONGEST:
        raise DataError(
            f"{where}: a line of more than {LONGEST:,} bytes. Each line needs one row; was the "
            "file damaged?"
        )
    return line


def _parsed(text: str, where: str) -> object:
    try:
        row: object = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_no_repeats,
        )
        if "\\ud" in text.lower():
            # A lone surrogate is legal in JSON, but no tokenizer and no UTF-8 file can hold it.
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: the string has a lone surrogate (\\ud8xx). Remove it, or write the pair."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no valid JSON: {error}. Each line needs one object.") from error
    return row


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON; write null or a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is larger than a double can hold")
    return value


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; the parser itself would silently keep the last of two equal keys."""
    content = dict(pairs)
    if len(content) < len(pairs):
        again = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {again!r:.60} occurs twice")
    return content


def _checked_row(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: a row must be an object with prompt and response, not {type(row).__name__}."
        )
    for field in _REQUIRED:
        if field not in row:
            raise DataError(f"{where}: the field {field!r} is missing. It must be a string.")
        if not isinstance(row[field], str):
            raise DataError(
                f"{where}: the field {field!r} must be a string, not {type(row[field]).__name__}."
            )
    for field, types in _OPTIONAL.items():
        value = row.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
            kinds = " or ".join({int: "an integer", str: "a string"}[kind] for kind in types)
            raise DataError(
                f"{where}: the field {field!r} must be {kinds}, not {type(value).__name__}."
            )
    if isinstance(row.get("id"), int) and not -(2**63) <= row["id"] < 2**63:
        raise DataError(f"{where}: the field 'id' does not fit 64 bits. Use a string.")
    if isinstance(row.get("id"), str) and (problem := unwritable(row["id"])):
        raise DataError(f"{where}: the field 'id' has {problem}. Rename the row.")
    return row


def _dataset_rows(path: Path) -> Iterator[UnreadRow]:
    for index, read in enumerate(unread_dataset_rows(path)):
        yield partial(_dataset_row, read, f"{path}: row {index}")


def _dataset_row(read: UnreadRow, where: str) -> Row:
    return _checked_row(read(), where)
