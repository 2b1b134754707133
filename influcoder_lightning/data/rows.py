"""Rows of instruction data: read and checked, named, written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from influcoder_lightning.data.formats import Row, TextRow
from influcoder_lightning.data.row_files import Source, raw_rows
from influcoder_lightning.data.shapes import Shape, shape_of
from influcoder_lightning.data.unread import UnreadRow
from influcoder_lightning.errors import DataError
from influcoder_lightning.ids import is_canonical_int

ReadRow = Callable[[], Row]
"""Parses and checks one row; raises the errors of `load_rows`."""


@dataclass(frozen=True)
class RowSource:
    """Where rows are, and what they mean; plain data, for other processes too.

    Attributes:
        place: file, folder, pattern, hub name, or several, see `row_files.raw_rows`.
        format: a key of `formats.FORMATS`; None: by the columns.
        columns: the file's names by what they stand for, ``{"prompt": "question"}``.
        split: of a data set.
        revision: of a data set of the hub.
    """

    place: Source
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        """Where the rows are."""
        if isinstance(self.place, str | os.PathLike):
            return str(self.place)
        return ", ".join(map(str, self.place))

    def load(self) -> tuple[list[Row], Shape]:
        """All rows, and what they were taken for.

        Raises:
            DataError, ConfigError: as `load_rows`.
        """
        rows, shape = [], None
        for shape, raw in self._shaped():
            rows.append(shape.row(raw.read(), raw.where))
        if shape is None:
            raise DataError(
                f"{self}: no rows. Each needs prompt and response, or another of the known formats."
            )
        return rows, shape

    def unread(self) -> Iterator[ReadRow]:
        """The rows one after the other, none of them parsed before it is called."""
        for shape, raw in self._shaped():
            yield partial(_read, shape, raw)

    def at(self, places: Sequence[int]) -> list[tuple[Row, Collection[str]]]:
        """Rows at some places, and the columns of the file that they were made of.

        Raises:
            DataError, ConfigError: as `load_rows`.
        """
        wanted = set(places)
        found = {
            index: (_read(shape, raw), shape.used())
            for index, (shape, raw) in enumerate(self._shaped())
            if index in wanted
        }
        return [found[place] for place in places]

    def verbatim(self) -> Iterator[UnreadRow]:
        """The rows as the source has them."""
        return raw_rows(self.place, self.split, self.revision)

    def _shaped(self) -> Iterator[tuple[Shape, UnreadRow]]:
        shape = None
        for raw in self.verbatim():
            if shape is None:
                first = raw.read()  # once: readers count what they have read
                shape = shape_of(first, raw.where, self.format, self.columns)
                raw = UnreadRow(raw.where, partial(_given, first))
            yield shape, raw


def _given(row: object) -> object:
    return row


def _read(shape: Shape, raw: UnreadRow) -> Row:
    return shape.row(raw.read(), raw.where)


def load_rows(
    path: Source, format: str | None = None, columns: Mapping[str, str] | None = None
) -> list[Row]:
    """Read rows from files, folders of ``datasets``, patterns of names, the hub, or a list of them.

    What the columns mean is recognised (prompt and response, messages, Alpaca, ...; the table is in
    :mod:`~influcoder_lightning.data.formats`), or said.

    Args:
        path: JSON Lines, a JSON array (``.json``), CSV, TSV or Parquet; packed by ``.gz``, ``.bz2``
            or ``.zst``; a folder as ``Dataset.save_to_disk`` writes it; ``owner/name`` of the hub.
            A name with ``*``, ``?`` or ``[`` stands for all that match it, in their order.
        format: of the rows. Default: by the columns of the first one.
        columns: the file's names by what they stand for, ``{"prompt": "question"}``.

    Returns:
        Rows with ``prompt`` and ``response``, those of conversations with ``messages``, too. An
        optional field that is null counts as not given. Values that JSON does not know take the
        form that :mod:`~influcoder_lightning.data.json_forms` gives them.

    Raises:
        DataError: When there is nothing to read, a line is broken, or a field is missing or of the
            wrong type; names the file, the line (or row) and the field.
        ConfigError: For an unknown format.
    """
    return RowSource(path, format, columns or {}).load()[0]


def unread_rows(source: Source | RowSource) -> Iterator[ReadRow]:
    """The rows of `load_rows` one after the other, none of them parsed before it is called.

    Passing over rows costs little more than reading the file, and memory does not grow.

    Raises:
        DataError, ConfigError: as `load_rows`.
    """
    return (source if isinstance(source, RowSource) else RowSource(source)).unread()


def as_written(source: Source | RowSource, places: Sequence[int]) -> list[dict[str, Any]]:
    """The rows at some places, as their files have them.

    Raises:
        DataError: as `load_rows`, or a place that the source no longer has.
    """
    source = source if isinstance(source, RowSource) else RowSource(source)
    wanted, found = set(places), dict[int, Any]()
    for index, raw in enumerate(source.verbatim()):
        if index in wanted:
            found[index] = raw.read()
    if lost := sorted(wanted - found.keys()):
        raise DataError(f"{source} has no row {lost[0]} any more; it was changed during the run.")
    return [found[place] for place in places]


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
        return ids  # type: ignore[return-value]  # all of them are integers
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


def fingerprint_line(row: TextRow, name: object) -> bytes:
    """What a row adds to the fingerprint of its source: its id and its text."""
    line = [str(name), row["prompt"], row["response"]]
    if row.get("messages"):
        line += [row["messages"], row.get("tools")]
    return json.dumps(line).encode("utf-8") + b"\n"


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
