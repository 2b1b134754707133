"""The shape of a source of rows: recognised from its columns, or as `data.format` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from influcoder_lightning.data.formats import FORMATS, Format, Row, recognised
from influcoder_lightning.errors import ConfigError, DataError, did_you_mean
from influcoder_lightning.ids import unwritable

AUTO = "auto"
_ROLES = ("prompt", "response", "messages", "text", "system", "id", "task", "group", "tools")
_NEEDED = ("prompt", "response", "messages", "text")
_OPTIONAL: dict[str, tuple[type, ...]] = {"id": (int, str), "task": (str,), "group": (str,)}
_OURS = ("prompt", "response", "messages", "tools", "plain")
_RESULTS = ("influence_score",)  # what a selection added
_CONTEXT = ("input", "context", "system", "history", "documents", "passage")


@dataclass
class Shape:
    """The format of a source, and which of its columns nothing was made of.

    Attributes:
        format: of every row.
        columns: names of the file's columns by what they stand for.
        unused: columns that were met and not used.
    """

    format: Format
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: dict[str, None] = field(default_factory=dict)

    def row(self, raw: object, where: str) -> Row:
        """A row of the file as a `Row`.

        Raises:
            DataError: it is none of this format; names the row and the column.
        """
        if not isinstance(raw, dict):
            raise DataError(f"{where}: a row must be an object, not {type(raw).__name__}.")
        raw = self._renamed(raw)
        if missing := [name for name in self.format.needs if name not in raw]:
            raise self._missing(raw, missing[0], where)
        used = {*self.format.needs, *self.format.may, *_OPTIONAL, *_RESULTS}
        self.unused.update(dict.fromkeys(name for name in raw if name not in used))
        row = {name: value for name, value in raw.items() if name not in _OURS}
        _check_optional(row, where)
        return row | self.format.read(raw, where)

    def used(self) -> list[str]:
        """Columns of the file that hold what is said, by the names that they have there."""
        names = [*self.format.needs, *self.format.may]
        return [self.columns.get(name, name) for name in names]

    def says(self) -> str:
        """What was recognised, as a line for the log."""
        return f"read as {self.format.name}: {self.format.says}"

    def ignored_context(self) -> list[str]:
        """Unused columns that look as if they belonged to the prompt."""
        return [name for name in self.unused if name in _CONTEXT]

    def _renamed(self, raw: Row) -> Row:
        if not self.columns:
            return raw
        named = {role: raw[name] for role, name in self.columns.items() if name in raw}
        gone = {*self.columns, *self.columns.values()}
        return {name: value for name, value in raw.items() if name not in gone} | named

    def _missing(self, raw: Row, name: str, where: str) -> DataError:
        column = self.columns.get(name, name)
        other = recognised(raw)
        mixed = f" This row looks like {other.name}." if other is not None else ""
        return DataError(
            f"{where}: the field {column!r} is missing, and the source is read as "
            f"{self.format.name}.{mixed} Its fields: {', '.join(map(str, raw)):.200}."
        )


def shape_of(
    raw: object, where: str, format: str | None = None, columns: Mapping[str, str] | None = None
) -> Shape:
    """The shape of a source, by its first row.

    Args:
        raw: the row.
        where: it stands, for messages.
        format: a key of `FORMATS`; ``auto`` or None: by the columns.
        columns: the file's names by what they stand for, ``{"prompt": "question"}``.

    Raises:
        ConfigError: the format, or a key of the columns, is unknown.
        DataError: no format fits; lists the columns and the nearest one.
    """
    columns = dict(columns or {})
    for role in columns:
        if role not in _ROLES:
            raise ConfigError(
                f"data.columns: unknown key {role!r}{did_you_mean(role, _ROLES)} Keys: "
                f"{', '.join(_ROLES)}."
            )
    if format not in (None, AUTO):
        if format not in FORMATS:
            known = ", ".join([AUTO, *FORMATS])
            raise ConfigError(
                f"data.format={format} is unknown{did_you_mean(format, FORMATS)} Known: {known}."
            )
        return Shape(FORMATS[format], columns)
    if not isinstance(raw, dict):
        raise DataError(f"{where}: a row must be an object, not {type(raw).__name__}.")
    found = Shape(FORMATS["prompt_response"], columns)
    needed = [name for role, name in columns.items() if role in _NEEDED]
    if missing := [name for name in needed if name not in raw]:
        raise DataError(
            f"{where}: data.columns names {missing[0]!r}, and the row has "
            f"{', '.join(map(str, raw)):.200}."
        )
    kind = recognised(found._renamed(raw))
    if kind is None:
        nearest = max(FORMATS.values(), key=lambda kind: _overlap(kind, raw))
        raise DataError(
            f"{where}: cannot tell prompt from response. Columns: "
            f"{', '.join(map(str, raw)) or 'none':.300}. Nearest format: {nearest.name} "
            f"({', '.join(nearest.needs)}). Say what they are: {_suggestion(nearest, raw)}, or "
            "data.format=...."
        )
    return Shape(kind, columns)


def _suggestion(nearest: Format, row: Row) -> str:
    """The key that would name the columns, with those that are clear already."""
    for name, value in row.items():
        turns = value if isinstance(value, list) else []
        if any(isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in turns[:1]):
            return f"data.columns={{messages: {name!s:.40}}}"
    by_lower = {str(name).lower(): name for name in row}
    needs = nearest.needs if set(nearest.needs) <= set(_ROLES) else ("prompt", "response")
    named = [f"{need}: {by_lower.get(need, '...')!s:.40}" for need in needs]
    return f"data.columns={{{', '.join(named)}}}"


def _overlap(kind: Format, row: Iterable[object]) -> float:
    names = {str(name).lower() for name in row}
    close = [need for need in kind.needs if any(need in n or n in need for n in names if n)]
    return len(close) / len(kind.needs)


def _check_optional(row: Row, where: str) -> None:
    for name, types in _OPTIONAL.items():
        value = row.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
            kinds = " or ".join({int: "an integer", str: "a string"}[kind] for kind in types)
            raise DataError(
                f"{where}: the field {name!r} must be {kinds}, not {type(value).__name__}."
            )
    if isinstance(row.get("id"), int) and not -(2**63) <= row["id"] < 2**63:
        raise DataError(f"{where}: the field 'id' does not fit 64 bits. Use a string.")
    if isinstance(row.get("id"), str) and (problem := unwritable(row["id"])):
        raise DataError(f"{where}: the field 'id' has {problem}. Rename the row.")
