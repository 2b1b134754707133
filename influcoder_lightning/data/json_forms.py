"""JSON forms of what Arrow columns hold, so that a chosen row can be written as it was read."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import uuid
from collections.abc import Mapping

from influcoder_lightning.errors import DataError


def json_form(value: object, column: str) -> object:
    """A value as JSON has it.

    Dates and times become ISO 8601 text, durations seconds, decimals and UUIDs text, bytes base64
    text; NaN and infinities, which JSON does not know, become null.

    Args:
        value: of a column.
        column: its name, for the message.

    Raises:
        DataError: the value has no such form.

    Example:
        >>> json_form([datetime.date(2024, 1, 31), float("nan"), b"hi"], "x")
        ['2024-01-31', None, 'aGk=']
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, list | tuple):
        return [json_form(item, column) for item in value]
    if isinstance(value, dict):
        # A column of objects has all their fields in each of them; what is null was not there.
        return {
            str(key): json_form(item, f"{column}.{key}")
            for key, item in value.items()
            if item is not None
        }
    raise DataError(
        f"the column {column!r} holds a {type(value).__name__}, which no JSON file can hold, so "
        "that chosen rows could not be written. Take it out: dataset.remove_columns(...)."
    )


def json_forms(row: Mapping[str, object], where: str) -> dict[str, object]:
    """A whole row, see `json_form`.

    Raises:
        DataError: a value has no such form, or is nested too deep; names the row.
    """
    try:
        return {name: json_form(value, name) for name, value in row.items()}
    except (DataError, RecursionError) as error:
        raise DataError(f"{where}: {error}") from error
