"""Links that work on a Git host work on the site as well.

Pages link to files of the repository by relative path. Files outside `docs/` that the site shows
through a page of its own (`{include}`) have another address there; links to them, and links inside
them, are rewritten while a page is read. Other files outside `docs/` become downloads.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
PAGES = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "CHANGELOG.md": DOCS / "changelog.md",
    ROOT / "CONTRIBUTING.md": DOCS / "contributing.md",
    ROOT / "benchmarks" / "README.md": DOCS / "benchmarks.md",
}
FOLDERS = {
    ROOT / "benchmarks": DOCS / "benchmarks.md",
    ROOT / "docs" / "how-to": DOCS / "how-to" / "index.md",
}
_LINK = re.compile(r"(?P<open>\]\()(?P<path>[^()\s:#]+)(?P<anchor>#[^()\s]*)?(?=\))")


def rewritten(text: str, source: Path, page: Path) -> str:
    """The text of `source` with its relative links as they must be on `page`."""

    def link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match["path"]))
        if not target.exists():
            return match[0]
        shown = PAGES.get(target) or FOLDERS.get(target) or target
        path = Path(os.path.relpath(shown, page.parent)).as_posix()
        return f"{match['open']}{path}{match['anchor'] or ''}"

    return _LINK.sub(link, text)


def _page(app: Sphinx, name: str, text: list[str]) -> None:
    path = Path(app.env.doc2path(name))
    text[0] = rewritten(text[0], path, path)


def _included(app: Sphinx, source: Path, page: str, text: list[str]) -> None:
    text[0] = rewritten(
        text[0], (Path(app.srcdir) / source).resolve(), Path(app.env.doc2path(page))
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _page)
    app.connect("include-read", _included)
    return {"parallel_read_safe": True}
