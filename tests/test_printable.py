"""Strangers' text steers neither terminals nor spreadsheets, and reads back as it was."""

from __future__ import annotations

import csv
import io
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.cli.exit import stop_with
from influcoder_lightning.data.rows import complete_ids
from influcoder_lightning.errors import DataError, RankingError, StoreError
from influcoder_lightning.ids import as_id_array
from influcoder_lightning.influence.score_files import load_scores
from influcoder_lightning.printable import PrintableFormatter, printable
from influcoder_lightning.spreadsheet import as_cell, from_cell, quoted

STARTS = ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "'", "''", "'=", ""]
TEXTS = st.builds(
    lambda start, rest: start + rest,
    st.sampled_from(STARTS),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
    | st.sampled_from(["cmd|' /C calc'!A0", "1+1", "5", ";=1", ",=1", '"=1', "1,2\n=3"]),
)


@settings(deadline=None, max_examples=400, database=None)
@given(TEXTS)
def test_a_cell_is_no_formula_and_reads_back(text):
    assert from_cell(as_cell(text)) == text
    for delimiter in (",", ";", "\t"):
        line = f"{quoted(text)}{delimiter}0.5\r\n"
        cell = next(csv.reader(io.StringIO(line, newline=""), delimiter=delimiter))[0]
        assert from_cell(cell) == text
        number = cell.removeprefix("-").isdigit() and cell.isascii()
        assert number or not cell.startswith(tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"))


@settings(deadline=None, max_examples=60, database=None)
@given(st.lists(TEXTS, min_size=1, max_size=8, unique=True))
def test_ids_of_a_ranking_read_back(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("ranking") / "ranking.csv"
    ranking = Ranking(ids, -np.arange(len(ids), dtype=float))
    ranking.save(path)
    for loaded in (Ranking.load(path), load_scores(path)):
        assert [str(name) for name in loaded.sample_ids.tolist()] == ids
        assert loaded.scores.tolist() == ranking.scores.tolist()


@settings(deadline=None, max_examples=100, database=None)
@given(st.text())
def test_what_is_shown_prints(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    if text.isprintable():
        assert printable(text) == text


NOTE = "\x1b]0;own\x07\u202e\r\nall is well"


def test_errors_and_log_lines_escape_what_does_not_print(capsys):
    assert str(StoreError(NOTE)) == "\\x1b]0;own\\x07\\u202e\\r\nall is well"
    with pytest.raises(SystemExit):
        stop_with(f"x {NOTE}")
    line = capsys.readouterr().err
    assert line.strip().isprintable()
    record = logging.LogRecord("x", logging.INFO, "", 0, "read %s", (NOTE,), None)
    assert PrintableFormatter("%(message)s").format(record) == (
        "read \\x1b]0;own\\x07\\u202e\\r\\nall is well"
    )


def test_a_number_and_its_text_are_no_two_samples():
    with pytest.raises(DataError, match='row 0 has the id 1 and row 2 the id "1"'):
        complete_ids([1, "a", "1"])
    with pytest.raises(RankingError, match='the number 1 and the text "1"'):
        as_id_array([1, "1"])
    assert complete_ids([1, "01", "a"]) == ["1", "01", "a"]
    assert as_id_array([1, "a", "a", 1]).tolist() == ["1", "a", "a", "1"]  # duplicates stay
