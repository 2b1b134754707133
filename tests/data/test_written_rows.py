"""Chosen rows in each form: what is read back is what was written, and only one form lies there."""

from __future__ import annotations

import pytest

from influcoder_lightning.data.rows import as_written
from influcoder_lightning.data.written_rows import FORMS, write_rows
from influcoder_lightning.errors import DataError

ROWS = [
    {
        "messages": [{"role": "user", "content": "é\n"}, {"role": "assistant", "content": "B"}],
        "source": "x",
        "n": 3,
        "influence_score": 0.5,
    },
    {
        "messages": [{"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}],
        "source": None,
        "n": 4,
        "influence_score": None,
    },
]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_back_is_what_was_written(tmp_path, form):
    path = write_rows(ROWS, tmp_path, form)
    assert as_written(str(path), [0, 1]) == ROWS


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("then", FORMS)
def test_an_earlier_choice_in_another_form_does_not_stay(tmp_path, first, then):
    write_rows(ROWS[:1], tmp_path, first)
    write_rows(ROWS, tmp_path, then)
    assert [name for name in FORMS.values() if (tmp_path / name).exists()] == [FORMS[then]]


def test_rows_that_make_no_table_say_so_and_leave_what_was_there(tmp_path):
    write_rows(ROWS, tmp_path)
    with pytest.raises(DataError, match=r"no table.*select\.output=jsonl"):
        write_rows([{"id": 1}, {"id": {"a": "b"}}], tmp_path, "parquet")
    assert as_written(str(tmp_path / "selected.jsonl"), [0, 1]) == ROWS
