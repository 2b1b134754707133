"""`report.md`: sections of text, tables, figures and commands, safe for text from users."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from influcoder_lightning.errors import DataError
from influcoder_lightning.influence.atomic import atomic_path

# Entities where a backslash is read differently by different renderers (a pipe in a table) or
# would do nothing (HTML), backslashes for the rest, which keeps the source readable.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;", "\\": "&#92;"}
_ESCAPES = _ENTITIES | {mark: f"\\{mark}" for mark in "*_~[]#!$"} | {"@": "&#64;"}
# Renderers turn bare addresses into links; text from a data set must not become one.
_ADDRESSES = [("://", "&#58;//"), ("www.", "www&#46;"), ("WWW.", "WWW&#46;")]
# Only at the start of a line do these open a list, a quote, a rule or a heading underline.
_LINE_START = re.compile(r"^(?:([+=-])|(\d{1,9})([.)]))")


def escape(text: Any, limit: int | None = None) -> str:
    """Text as one line of Markdown that shows as it is, cut to `limit` characters.

    Example:
        >>> print(escape("a|b <b> *c*"))
        a&#124;b &lt;b&gt; \\*c\\*
        >>> escape("one\\n\\n two three", limit=8)
        'one two…'
    """
    # Controls, line ends and invisible direction marks all become a space.
    flat = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text))
    flat = re.sub(" +", " ", flat).strip()
    if limit is not None and len(flat) > limit:
        flat = flat[: limit - 1].rstrip() + "…"
    escaped = "".join(_ESCAPES.get(c, c) for c in flat)
    for address, harmless in _ADDRESSES:
        escaped = escaped.replace(address, harmless)
    return _LINE_START.sub(
        lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\{m[3]}",
        escaped,
    )


@dataclass(frozen=True)
class Text:
    """A paragraph; shown as it is written, except with `markdown=True` (never for users' text)."""

    text: str
    markdown: bool = False

    def render(self, folder: Path) -> str:
        """The paragraph."""
        return self.text.strip() if self.markdown else escape(self.text)


@dataclass(frozen=True)
class Table:
    """A table; numbers right-aligned, cells cut to `limit` characters, None shown as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    limit: int = 160

    def render(self, folder: Path) -> str:
        """The table."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise DataError(
                    f"a table row has {len(row)} cells for {len(self.columns)} columns: {row!r:.80}"
                )
        numeric = [
            bool(self.rows) and all(row[at] is None or _is_number(row[at]) for row in self.rows)
            for at in range(len(self.columns))
        ]
        lines = [
            [escape(column, self.limit) for column in self.columns],
            ["--:" if number else "---" for number in numeric],
            *([_cell(value, self.limit) for value in row] for row in self.rows),
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Figure:
    """An image beside the report."""

    path: str | os.PathLike[str]
    caption: str

    def render(self, folder: Path) -> str:
        """The image with its caption."""
        return f"![{escape(self.caption)}]({link(self.path, folder)})\n\n{escape(self.caption)}"


@dataclass(frozen=True)
class Code:
    """A command or other text to copy."""

    text: str
    language: str = "sh"

    def render(self, folder: Path) -> str:
        """The fenced block."""
        longest = max((len(run) for run in re.findall("`+", self.text)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{fence}{self.language}\n{self.text.rstrip()}\n{fence}"


@dataclass(frozen=True)
class Files:
    """A list of files beside the report and what they hold."""

    files: Sequence[tuple[str | os.PathLike[str], str]]

    def render(self, folder: Path) -> str:
        """The list, each file linked."""
        return "\n".join(
            f"- [{escape(os.fspath(path))}]({link(path, folder)}): {escape(content)}"
            for path, content in self.files
        )


Block = Text | Table | Figure | Code | Files


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def link(path: str | os.PathLike[str], folder: Path) -> str:
    """The target of a link from a report in `folder`; relative, so that the folder can move."""
    target = Path(path)
    if target.is_absolute():
        target = Path(os.path.relpath(target, folder.resolve()))
    return quote(target.as_posix())


def write_report(path: str | os.PathLike[str], sections: Sequence[Section]) -> None:
    """Write a Markdown page; the first section's title is the title of the page.

    Raises:
        DataError: no sections, or a table whose rows do not fit its columns.
    """
    if not sections:
        raise DataError("a report needs at least one section")
    path = Path(path)
    parts: list[str] = []
    for place, section in enumerate(sections):
        parts.append(f"{'#' if place == 0 else '##'} {escape(section.title)}")
        parts.extend(block.render(path.parent) for block in section.blocks)
    with atomic_path(path) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any, limit: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(value, limit)
