"""What every reader of rows gives: a row that is parsed when it is asked for."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from influcoder_lightning.errors import DataError


class UnreadRow(NamedTuple):
    """A row of a file that nobody has looked at yet.

    Attributes:
        where: file and line (or row), for messages.
        read: parses it; raises `DataError`.
    """

    where: str
    read: Callable[[], object]


@contextmanager
def damage_named(where: str) -> Iterator[None]:
    """What a disk or an unpacker raises, as an error of the data that says where."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:  # the last two from a damaged .gz
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{where}: cannot be read ({reason!s:.200}).") from error
