"""`report.html`: one file with everything in it, opened from disk; safe for text from users."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from influcoder_lightning.errors import DataError
from influcoder_lightning.files import durable_path
from influcoder_lightning.report.press import explorer
from influcoder_lightning.report.press.blocks import Chart, Figure, Samples, Section, Table
from influcoder_lightning.report.press.glossary import definition
from influcoder_lightning.report.press.markdown import cells, charts, link, one_line, write_report

MOST_BYTES = 4_800_000
_MOST_ROWS = 300  # of a table; the files beside the report have all
_MOST_CHARACTERS = 100_000  # of a paragraph or a block of code
_MOST_IMAGE = 1_000_000
_STATIC = 8  # samples of each mark without JavaScript and on paper
_LONG = ("prompt", "response")
_FILTERS = ("task", "group")


def write_page(folder: str | os.PathLike[str], sections: Sequence[Section]) -> None:
    """Write `report.md` with its images, and `report.html` (below 5 MB), into `folder`.

    Raises:
        DataError: no sections.
    """
    folder = Path(folder)
    write_report(folder / "report.md", sections)
    with durable_path(folder / "report.html") as part:
        part.write_text(page(folder, sections), encoding="utf-8")


def page(folder: Path, sections: Sequence[Section]) -> str:
    """The HTML of a report that lies in `folder`; the first section is its head.

    Raises:
        DataError: no sections.
    """
    if not sections:
        raise DataError("a report needs at least one section")
    writer = _Writer(folder, sections)
    # What is left beside everything else is for the samples.
    bare = writer.html(0)
    return writer.html(MOST_BYTES - len(bare.encode("utf-8")))


class _Writer:
    """One page: its charts are drawn once, its text can be written several times."""

    def __init__(self, folder: Path, sections: Sequence[Section]) -> None:
        self.folder, self.sections = folder, sections
        self.drawn = {id(chart): _draw(chart, at) for at, chart in enumerate(charts(sections))}
        self.environment = Environment(
            loader=PackageLoader("influcoder_lightning.report.press", "page"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_printable,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def html(self, budget: int) -> str:
        """The page, with `budget` bytes for samples."""
        n = sum(isinstance(block, Samples) for s in self.sections for block in s.blocks)
        terms = _Terms()
        scripts = [self._resource(name) for name in ("page.js", "samples.js")]
        return self.environment.get_template("page.html.j2").render(
            head=self.sections[0],
            sections=self.sections[1:],
            terms=terms,
            drawn=lambda chart: self.drawn[id(chart)],
            table=_table,
            samples=lambda block: _samples(block, budget // max(1, n)),
            image=self._image,
            link=lambda path: link(path, self.folder),
            kind=lambda block: type(block).__name__,
            cut=lambda text: text[:_MOST_CHARACTERS],
            style=self._resource("style.css"),
            scripts=scripts,
            # Nothing but this page's own scripts runs, and nothing is fetched.
            policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src {' '.join(map(_hash, scripts))}; base-uri 'none'; form-action 'none'",
        )

    def _resource(self, name: str) -> Markup:
        loader = self.environment.loader
        assert loader is not None
        return Markup(loader.get_source(self.environment, name)[0])

    def _image(self, figure: Figure) -> str | None:
        """The image as data; None where it is too large to be carried along."""
        path = self.folder / figure.path
        if path.suffix.lower() != ".png" or path.stat().st_size > _MOST_IMAGE:
            return None
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


class _Terms:
    """Marks words that the glossary explains, and collects them for the end of the page."""

    def __init__(self) -> None:
        self.used: dict[str, str] = {}

    def mark(self, text: str) -> Markup:
        """A column, label or name, linked to its definition where there is one."""
        if definition(text) is None:
            head, comma, rest = text.partition(",")
            if comma and definition(head):  # "held-out loss, top_k"
                return self.mark(head) + escape(_printable(comma + rest))
            return escape(_printable(text))
        return Markup('<a class="term" href="#{0}" aria-describedby="{0}">{1}</a>').format(
            self.anchor(text), _printable(text)
        )

    def within(self, text: str, terms: Sequence[str]) -> Markup:
        """A text with the first place of each term marked."""
        if not (known := [term for term in terms if definition(term)]):
            return escape(_printable(text))
        pattern = "|".join(re.escape(term) for term in sorted(known, key=len, reverse=True))
        seen: set[str] = set()
        parts: list[Markup] = []
        for part in re.split(rf"(?<!\w)({pattern})(?!\w)", text, flags=re.IGNORECASE):
            first = part.lower() not in seen and part.lower() in {t.lower() for t in known}
            parts.append(self.mark(part) if first else escape(_printable(part)))
            seen.add(part.lower())
        return Markup("").join(parts)

    def anchor(self, term: str) -> str | None:
        """The id of a term's definition, which the page will have."""
        meaning = definition(term)
        if meaning is None:
            return None
        name = term.strip().lower()
        self.used[name] = meaning
        return "def-" + re.sub(r"\W", lambda found: f"-{ord(found[0]):x}", name, flags=re.ASCII)

    def entries(self) -> list[tuple[str | None, str, str]]:
        """Anchor, term and definition of all that was marked so far, in order."""
        return [(self.anchor(name), name, self.used[name]) for name in sorted(self.used)]


def _draw(chart: Chart, place: int) -> tuple[Markup, Markup | None]:
    """The chart, and what stands in for it on narrow screens."""
    from influcoder_lightning.report.press.svg import chart_svg

    wide = chart_svg(chart.figure, f"chart-{place}", chart.caption)
    if chart.narrow is None:
        return Markup(wide), None
    return Markup(wide), Markup(chart_svg(chart.narrow, f"narrow-{place}", chart.caption))


def _table(table: Table) -> dict[str, object]:
    return {
        "columns": list(table.columns),
        "numeric": table.numeric(),
        "rows": [[one_line(text, table.limit) for text in row] for row in cells(table, _MOST_ROWS)],
        "n": len(table.rows),
    }


def _samples(samples: Samples, budget: int) -> dict[str, object]:
    shown = explorer.fit(samples, budget)
    static = [
        (name, _table(Table(samples.columns, [samples.rows[p] for p in places[:_STATIC]], 140)))
        for name, places in samples.marks.items()
    ]
    return {
        "data": Markup(shown.data),
        "shown": shown.n,
        "cut": shown.cut,
        "static": static,
        "long": [name for name in samples.columns if name in _LONG],
        "filters": [(at, name) for at, name in enumerate(samples.columns) if name in _FILTERS],
    }


def _printable(value: object) -> object:
    """Text without what HTML cannot hold or would turn the direction of what follows."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join("\ufffd" if _is_odd(c) else c for c in value)


def _is_odd(character: str) -> bool:
    if character in "\n\t\u200c\u200d":  # joiners belong to words and emoji
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
