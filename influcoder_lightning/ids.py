"""Sample ids: an integer of 64 bits, or a string that a file can hold.

They are compared by their text, so that 12 and "12" are one sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import DataError, RankingError

SampleId = int | str
IdArray = NDArray[np.int64 | np.object_]
"""Ids [N]: int64, or an object array of str."""

INT64 = range(-(2**63), 2**63)


def is_canonical_int(text: str) -> bool:
    """Whether `text` is what `str` makes of an int64: no leading zeros, plus sign or spaces."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        return False
    return str(int(text)) == text and int(text) in INT64


def unwritable(text: str) -> str:
    """What keeps a text out of files: NUL ends it in HDF5, a lone surrogate is no UTF-8."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "a lone surrogate"
    return ""


def checked_id(value: object, where: str) -> SampleId:
    """One id as a Python int or str.

    Raises:
        DataError: For anything but integers (int64) and strings that a file can hold.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, str):
        if problem := unwritable(value):
            raise DataError(f"{where}: the sample id {value!a:.60} has {problem}. Rename it.")
        return str(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(
            f"{where}: a sample id must be an integer or a string, not {value!r:.60} "
            f"({type(value).__name__})."
        )
    if value not in INT64:
        raise DataError(f"{where}: the sample id {value} does not fit 64 bits. Use a string.")
    return value


def checked_ids(values: object) -> list[SampleId]:
    """Ids from a list, tuple, 1-D tensor or 1-D array, as Python ints or strs.

    Raises:
        DataError: When they are nested, of another type, or mix integers and strings.
    """
    if hasattr(values, "ndim") and hasattr(values, "shape") and hasattr(values, "tolist"):
        if values.ndim != 1:
            raise DataError(f"sample ids must be one per sample, not of shape {values.shape}.")
        try:
            values = values.tolist()
        except (RuntimeError, NotImplementedError) as error:
            raise DataError(
                f"sample ids must be a dense tensor or a list, with values: {error}"
            ) from error
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(f"sample ids must be a list with one per sample, not {values!r:.60}.")
    ids = [checked_id(value, "batch") for value in values]
    if len({type(value) for value in ids}) > 1:
        raise DataError(
            f"sample ids mix integers and strings: {ids[:8]!r:.300}. Give all samples one kind: "
            "with_sample_ids(dataset, ids=row_ids(rows))."
        )
    return ids


def as_id_array(values: Iterable[object]) -> IdArray:
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
    items: list[int | np.integer | str] = []
    for position, item in enumerate(plain):
        if isinstance(item, bool | np.bool_) or not isinstance(item, int | np.integer | str):
            raise RankingError(
                f"the id at position {position} is {item!r:.60} ({type(item).__name__}); "
                "ids are integers or strings"
            )
        items.append(item)
    if items and all(not isinstance(item, str) and int(item) in INT64 for item in items):
        return np.array(items, dtype=np.int64)
    texts = [str(item) for item in items]
    _refuse_one_name_of_two_kinds(items, texts)
    array = np.empty(len(items), dtype=object)
    array[:] = texts
    return array


def _refuse_one_name_of_two_kinds(items: Sequence[object], texts: Sequence[str]) -> None:
    """As text, which is how ids are compared, ``1`` and ``"1"`` would become one sample."""
    written = {item for item in items if isinstance(item, str)}
    if len(written) == len(items) or not written:
        return
    for item, text in zip(items, texts, strict=True):
        if not isinstance(item, str) and text in written:
            raise RankingError(
                f'the ids hold both the number {text} and the text "{text}", which name one '
                "sample; rename one of them"
            )


def parse_ids(texts: Sequence[str]) -> IdArray:
    """Ids read from text: int64 when every one is a canonical integer, else str."""
    if texts and all(is_canonical_int(text) for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    return as_id_array(texts)


def first_few(items: Iterable[object], count: int = 5) -> str:
    """The first few items for an error message, with an ellipsis when there are more."""
    listed = list(items)
    shown = ", ".join(repr(item) for item in listed[:count])
    return f"[{shown}{', ...' if len(listed) > count else ''}]"


def id_keys(ids: IdArray) -> list[str]:
    """Ids as text [N], the form in which they are compared."""
    return [str(item) for item in ids.tolist()]


def has_repeats(ids: IdArray) -> bool:
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
