"""Sample ids as batches and callers give them, checked."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from influcoder_lightning.errors import DataError
from influcoder_lightning.ids import INT64, SampleId, unwritable


def ids_for_batch(ids: Sequence[SampleId]) -> torch.Tensor | list[SampleId]:
    """Ids as a dict batch carries them: int64 tensor [B], or a list of B strings."""
    if ids and all(isinstance(value, int) for value in ids):
        return torch.tensor(ids, dtype=torch.int64)
    return list(ids)


def checked_id(value: Any, where: str) -> SampleId:
    """One id as a Python int or str.

    Raises:
        DataError: For anything but integers (int64) and strings that a file can hold.
    """
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, np.integer):
        value = int(value)
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


def checked_ids(values: Any) -> list[SampleId]:
    """Ids from a list, tuple, 1-D tensor or 1-D array, as Python ints or strs.

    Raises:
        DataError: When they are nested, of another type, or mix integers and strings.
    """
    if isinstance(values, torch.Tensor | np.ndarray):
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
