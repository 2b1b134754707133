"""What a report is made of: plain data, which `markdown` and `html` turn into pages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from influcoder_lightning.errors import DataError

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class Text:
    """A paragraph, shown as it is written.

    Attributes:
        text: no markup; users' text is welcome.
        terms: words of it to explain, as `GLOSSARY` has them; the first place of each is marked.
        lead: the sentence to read first, set large.
    """

    text: str
    terms: Sequence[str] = ()
    lead: bool = False


@dataclass(frozen=True)
class Number:
    """One figure to see at a glance: what it is, its value as text, and how sure it is."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Numbers:
    """Figures side by side."""

    items: Sequence[Number]


@dataclass(frozen=True)
class Table:
    """A table; numbers right-aligned, cells cut to `limit` characters, None shown as a dash.

    Raises:
        DataError: a row does not have one cell for each column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    limit: int = 160

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise DataError(
                    f"a table row has {len(row)} cells for {len(self.columns)} columns: {row!r:.80}"
                )

    def numeric(self) -> list[bool]:
        """Whether each column holds nothing but numbers and None."""
        return [
            bool(self.rows) and all(row[at] is None or is_number(row[at]) for row in self.rows)
            for at in range(len(self.columns))
        ]


@dataclass(frozen=True)
class Chart:
    """A drawing; the page has it inside, Markdown an image at `path` beside the report.

    Attributes:
        figure: colours of `report.press.style` follow the page's light or dark theme.
        caption: what it shows, also for those who cannot see it.
        path: image file, relative to the report's folder.
        terms: words of the caption to explain, as for `Text`.
        narrow: the same drawn for a phone, about 4.4 inches wide; without it, a figure that is
            wider than the screen scrolls in a box of its own.
    """

    figure: matplotlib.figure.Figure
    caption: str
    path: str
    terms: Sequence[str] = ()
    narrow: matplotlib.figure.Figure | None = None


@dataclass(frozen=True)
class Figure:
    """An image file that is already there."""

    path: str | os.PathLike[str]
    caption: str


@dataclass(frozen=True)
class Code:
    """A command or other text to copy."""

    text: str
    language: str = "sh"


@dataclass(frozen=True)
class Files:
    """A list of files beside the report and what they hold."""

    files: Sequence[tuple[str | os.PathLike[str], str]]


Turns = Sequence[tuple[str, str]]
"""Who, and what was said; empty: the sample is no conversation."""


@dataclass(frozen=True)
class Samples:
    """Samples to search, filter and sort; Markdown shows the first of each mark.

    Attributes:
        columns: names; `prompt` and `response` are long texts, `task` and `group` can be filtered.
        rows: one cell per column, best sample first.
        marks: name (`best`, `worst`, `most ambiguous`, ...) -> places in `rows`, the most telling
            first; these stay when not all rows fit into the page.
        total: how many samples there are, where `rows` does not have all of them.
        file: beside the report, which has all of them.
        conversations: of each row, or none of them: its turns, (who, what was said), which are
            shown in place of `prompt` and `response` when the row is opened.

    Raises:
        DataError: a row does not have one cell for each column, or a place is not in `rows`.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    marks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    total: int | None = None
    file: str = "ranking.csv"
    conversations: Sequence[Turns] = ()

    def __post_init__(self) -> None:
        if self.conversations and len(self.conversations) != len(self.rows):
            raise DataError(f"{len(self.conversations)} conversations for {len(self.rows)} samples")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise DataError(
                    f"a sample has {len(row)} cells for {len(self.columns)} columns: {row!r:.80}"
                )
        for name, places in self.marks.items():
            if any(not 0 <= place < len(self.rows) for place in places):
                raise DataError(f"{name}: a place that is not in the {len(self.rows)} rows")

    @property
    def n(self) -> int:
        """How many samples there are, shown or not."""
        return len(self.rows) if self.total is None else self.total


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when asked for."""

    title: str
    blocks: Sequence[Block]


Block = Text | Numbers | Table | Chart | Figure | Code | Files | Samples | Folded


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; the first one of a report is the page's head."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def is_number(value: object) -> bool:
    """Whether a cell is shown as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
