"""`report.md`: blocks as Markdown, safe for text from users."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from influcoder_lightning.errors import DataError
from influcoder_lightning.files import durable_path
from influcoder_lightning.report.press.blocks import (
    Block,
    Chart,
    Code,
    Figure,
    Files,
    Folded,
    Numbers,
    Samples,
    Section,
    Table,
    Text,
)

# Entities where a backslash is read differently by different renderers (a pipe in a table) or
# would do nothing (HTML), backslashes for the rest, which keeps the source readable.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;", "\\": "&#92;"}
_ESCAPES = _ENTITIES | {mark: f"\\{mark}" for mark in "*_~[]#!$"} | {"@": "&#64;"}
# Renderers turn bare addresses into links; text from a data set must not become one.
_ADDRESSES = [("://", "&#58;//"), ("www.", "www&#46;"), ("WWW.", "WWW&#46;")]
# Only at the start of a line do these open a list, a quote, a rule or a heading underline.
_LINE_START = re.compile(r"^(?:([+=-])|(\d{1,9})([.)]))")
_SAMPLES = 8  # of each mark


def one_line(text: object, limit: int | None = None) -> str:
    """Text without line ends, controls and invisible marks, cut to `limit` characters.

    Example:
        >>> one_line("one\\n\\n two three", limit=8)
        'one two…'
    """
    whole = str(text)
    # A text of millions of characters is not looked at whole; what is cut here may be all spaces.
    head = whole if limit is None else whole[: 10 * limit]
    # Controls, line ends and invisible direction marks all become a space.
    flat = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in head)
    flat = re.sub(" +", " ", flat).strip()
    if limit is not None and (len(flat) > limit or len(head) < len(whole)):
        flat = flat[: limit - 1].rstrip() + "…"
    return flat


def escape(text: object, limit: int | None = None) -> str:
    """Text as one line of Markdown that shows as it is, cut to `limit` characters.

    Example:
        >>> print(escape("a|b <b> *c*"))
        a&#124;b &lt;b&gt; \\*c\\*
    """
    escaped = "".join(_ESCAPES.get(c, c) for c in one_line(text, limit))
    for address, harmless in _ADDRESSES:
        escaped = escaped.replace(address, harmless)
    return _LINE_START.sub(
        lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\{m[3]}",
        escaped,
    )


def link(path: str | os.PathLike[str], folder: Path) -> str:
    """The target of a link from a report in `folder`; relative, so that the folder can move."""
    target = Path(path)
    if target.is_absolute():
        target = Path(os.path.relpath(target, folder.resolve()))
    return quote(target.as_posix())


def render(block: Block, folder: Path) -> str:
    """One block as Markdown, for a report in `folder`."""
    match block:
        case Text():
            text = escape(block.text)
            return f"**{text}**" if block.lead else text
        case Numbers():
            return "\n".join(
                f"- {escape(item.label)}: **{escape(item.value)}**"
                + (f" ({escape(item.note)})" if item.note else "")
                for item in block.items
            )
        case Table():
            return _table(block)
        case Chart() | Figure():
            caption = escape(block.caption)
            return f"![{caption}]({link(block.path, folder)})\n\n{caption}"
        case Code():
            longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
            fence = "`" * max(3, longest + 1)
            return f"{fence}{block.language}\n{block.text.rstrip()}\n{fence}"
        case Files():
            return "\n".join(
                f"- [{escape(os.fspath(path))}]({link(path, folder)}): {escape(content)}"
                for path, content in block.files
            )
        case Samples():
            return _samples(block)
        case Folded():
            parts = [f"**{escape(block.title)}**", *(render(b, folder) for b in block.blocks)]
            return "\n\n".join(parts)


def write_report(path: str | os.PathLike[str], sections: Sequence[Section]) -> None:
    """Write a Markdown page and its charts; the first section's title is the title of the page.

    Raises:
        DataError: no sections.
    """
    if not sections:
        raise DataError("a report needs at least one section")
    path = Path(path)
    parts: list[str] = []
    for place, section in enumerate(sections):
        parts.append(f"{'#' if place == 0 else '##'} {escape(section.title)}")
        parts.extend(render(block, path.parent) for block in section.blocks)
    for block in charts(sections):
        # Only where there is one, so that pages without charts do without matplotlib.
        from influcoder_lightning.report.press.style import save_figure

        save_figure(block.figure, path.parent / block.path)
    with durable_path(path) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def charts(sections: Sequence[Section]) -> list[Chart]:
    """All charts of a report, those in folded blocks included."""

    def within(blocks: Sequence[Block]) -> list[Chart]:
        found: list[Chart] = []
        for block in blocks:
            if isinstance(block, Chart):
                found.append(block)
            elif isinstance(block, Folded):
                found += within(block.blocks)
        return found

    return [chart for section in sections for chart in within(section.blocks)]


def cells(table: Table, rows: int | None = None) -> list[list[str]]:
    """The first rows as text: the numbers of a column with as many decimals, None as a dash."""
    shown = table.rows[:rows]
    columns = [
        _decimals([row[at] for row in shown]) if number else [_cell(row[at]) for row in shown]
        for at, number in enumerate(table.numeric())
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _decimals(values: Sequence[object]) -> list[str]:
    """Four digits of the largest number; each on its own where that would hide small ones."""
    sizes = [abs(v) for v in values if isinstance(v, float) and v and math.isfinite(v)]
    if not sizes:
        return [_cell(value) for value in values]
    places = min(6, max(0, 3 - math.floor(math.log10(max(sizes)))))
    if min(sizes) < 10**-places or max(sizes) >= 1e6:
        return [_cell(value) for value in values]
    while places and all(f"{size:.{places}f}".endswith("0") for size in sizes):
        places -= 1
    return [f"{v:.{places}f}" if isinstance(v, float) else _cell(v) for v in values]


def _table(table: Table) -> str:
    lines = [
        [escape(column, table.limit) for column in table.columns],
        ["--:" if number else "---" for number in table.numeric()],
        *(
            [text if number else _escaped(text, table.limit) for text, number in pairs]
            for pairs in (zip(row, table.numeric(), strict=True) for row in cells(table))
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str, limit: int) -> str:
    return text if text == "-" else escape(text, limit)


def _samples(samples: Samples) -> str:
    parts = []
    for name, places in samples.marks.items():
        rows = [samples.rows[place] for place in places[:_SAMPLES]]
        parts += [escape(f"{name}, {len(rows)} of {samples.n:,} samples:")]
        parts += [_table(Table(samples.columns, rows, limit=80))]
    return "\n\n".join(parts)
