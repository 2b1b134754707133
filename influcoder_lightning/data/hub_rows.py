"""Rows of a data set of the Hugging Face hub, as `datasets` downloads and keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from influcoder_lightning.data.json_forms import json_forms
from influcoder_lightning.data.unread import UnreadRow
from influcoder_lightning.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def rows(name: str, split: str | None, revision: str | None) -> Iterator[UnreadRow]:
    """The rows of one split, none read before its call.

    Args:
        name: ``owner/name``; code of the data set is not run.
        split: ``train``, ``train[:1000]``; None where there is only one.
        revision: branch, tag or commit; None: the newest.

    Raises:
        DataError: there is no such data set or split, or it cannot be downloaded.
    """
    from datasets import DatasetDict, load_dataset

    try:
        found = load_dataset(name, split=split, revision=revision)
    except Exception as error:  # network, hub, files: anything that `datasets` raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name}: cannot be loaded from the Hugging Face hub, and is no file here "
            f"({reason:.300})."
        ) from error
    if isinstance(found, DatasetDict):
        if len(found) > 1:
            names = ", ".join(found)
            raise DataError(f"{name}: has several splits. Give data.split, one of: {names}.")
        (found,) = found.values()
    for index in range(len(found)):
        where = f"{name}: row {index}"
        yield UnreadRow(where, partial(_row, found, index, where))


def _row(found: Dataset, index: int, where: str) -> dict[str, object]:
    return json_forms(found[index], where)
