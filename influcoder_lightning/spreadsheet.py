"""Cells of our CSV files: text that a spreadsheet takes for text, and that reads back as it was.

Spreadsheets run a cell that begins like a formula, also where it came from somebody else's sample
id. Such a cell gets an apostrophe in front; so does one that begins with apostrophes and would
then look like one of these. Numbers stay: ``-5`` is a number to every reader.
"""

from __future__ import annotations

import re

# The last four are what some spreadsheets make of = + - @ in East Asian writing.
_FORMULA = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"
_STARTS = re.compile(f"'*[{_FORMULA}]")
_ESCAPED = re.compile(f"'+[{_FORMULA}]")
_NUMBER = re.compile(r"-?[0-9]+", re.ASCII)
# A semicolon or a tab begins a new cell where they separate; a bare carriage return a new row.
_QUOTED = re.compile('[,;"\t\r\n]')


def as_cell(text: str) -> str:
    """What is written for a text; `from_cell` gives it back.

    Example:
        >>> as_cell("=1+1"), as_cell("-5"), as_cell("'@"), as_cell("it's")
        ("'=1+1", '-5', "''@", "it's")
    """
    if _STARTS.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def from_cell(cell: str) -> str:
    """The text of a cell that `as_cell` gave."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def quoted(text: str) -> str:
    """A text as a field of a CSV line."""
    cell = as_cell(text)
    if _QUOTED.search(cell):
        return '"' + cell.replace('"', '""') + '"'
    return cell
