"""Chosen rows as files that other programs read: JSON Lines, Parquet, a folder of `datasets`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from influcoder_lightning.data.rows import write_jsonl
from influcoder_lightning.errors import DataError
from influcoder_lightning.files import durable_path, durable_tree

FORMS = {"jsonl": "selected.jsonl", "parquet": "selected.parquet", "dataset": "selected"}
"""Name of the file (or folder) by the form."""


def write_rows(rows: Sequence[dict[str, Any]], folder: Path, form: str = "jsonl") -> Path:
    """Write rows in one form; takes away what an earlier run wrote there in another.

    Args:
        rows: values that JSON knows.
        folder: to write to.
        form: a key of `FORMS`.

    Returns:
        The file or folder.

    Raises:
        DataError: a value has no form there; a column of a table has values of two kinds.
    """
    path = folder / FORMS[form]
    if form == "jsonl":
        write_jsonl(rows, path)
    else:
        _write_table(rows, path, form)
    forget_rows(folder, but=form)
    return path


def _write_table(rows: Sequence[dict[str, Any]], path: Path, form: str) -> None:
    import datasets
    import pyarrow as pa

    try:
        columns = dict.fromkeys(name for row in rows for name in row)  # of any row
        table = datasets.Dataset.from_list(
            [{name: row.get(name) for name in columns} for row in rows]
        )
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"the rows make no table ({' '.join(str(error).split()):.200}): a column has values of "
            "several kinds. Write them as JSON Lines: select.output=jsonl."
        ) from error
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if form == "parquet":
            with durable_path(path) as part:
                table.to_parquet(str(part))
        else:
            with durable_tree(path) as part:
                table.save_to_disk(str(part))
    finally:
        if shown:
            datasets.enable_progress_bars()


def forget_rows(folder: Path, but: str | None = None) -> None:
    """Take away chosen rows in every form but one."""
    for form, name in FORMS.items():
        path = folder / name
        if form == but:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
