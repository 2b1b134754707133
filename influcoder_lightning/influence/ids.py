"""Sample ids: integers or text, compared by their text so that 12 and "12" are one sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError

_INT64 = np.iinfo(np.int64)


def as_id_array(values: Iterable[Any]) -> NDArray[Any]:
    """Ids as int64 [N] when all are integers that fit, else as an object array of str [N].

    Raises:
        RankingError: an id that is neither an integer nor a string.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind == "i":
        return values.astype(np.int64)
    # Arrays, tensors and Series give plain Python values this way.
    plain = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(plain, str | bytes) or not isinstance(plain, Iterable):
        raise RankingError(f"ids are {plain!r:.60}; give a list of integers or strings")
    items = list(plain)
    for position, item in enumerate(items):
        if isinstance(item, bool | np.bool_) or not isinstance(item, int | np.integer | str):
            raise RankingError(
                f"the id at position {position} is {item!r:.60} ({type(item).__name__}); "
                "ids are integers or strings"
            )
    if items and all(
        not isinstance(item, str) and _INT64.min <= int(item) <= _INT64.max for item in items
    ):
        return np.array(items, dtype=np.int64)
    array = np.empty(len(items), dtype=object)
    array[:] = [str(item) for item in items]
    return array


def is_canonical_int(text: str) -> bool:
    """Whether `text` is what `str` makes of an int64: no leading zeros, plus sign or spaces."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        return False
    return str(int(text)) == text and _INT64.min <= int(text) <= _INT64.max


def parse_ids(texts: Sequence[str]) -> NDArray[Any]:
    """Ids read from text: int64 when every one is a canonical integer, else str."""
    if texts and all(is_canonical_int(text) for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    return as_id_array(texts)


def first_few(items: Iterable[Any], count: int = 5) -> str:
    """The first few items for an error message, with an ellipsis when there are more."""
    listed = list(items)
    shown = ", ".join(repr(item) for item in listed[:count])
    return f"[{shown}{', ...' if len(listed) > count else ''}]"


def id_keys(ids: NDArray[Any]) -> list[str]:
    """Ids as text [N], the form in which they are compared."""
    return [str(item) for item in ids.tolist()]


def has_repeats(ids: NDArray[Any]) -> bool:
    """Whether an integer occurs more than once, without a Python object for each."""
    ordered = np.sort(ids)
    return bool((ordered[1:] == ordered[:-1]).any())


def repeated(keys: Sequence[str]) -> list[str]:
    """The keys that occur more than once, each once, in order of their second appearance."""
    if len(set(keys)) == len(keys):
        return []
    seen: set[str] = set()
    again: dict[str, None] = {}
    for key in keys:
        if key in seen:
            again[key] = None
        seen.add(key)
    return list(again)
