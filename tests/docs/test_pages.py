"""Every block of the tutorial and the how-to pages runs as it stands.

The pages start from the run folder that the tutorial makes. TUTORIAL_RUN=<folder of a whole
quickstart run> runs them at the reader's size instead of the small one.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pages
import pytest

from influcoder_lightning.influence.method import METHODS, built_in

DOCS = Path(__file__).parents[2] / "docs"
TUTORIAL = DOCS / "tutorial.md"
FIRST = "runs/first"
PAGES = [TUTORIAL, *sorted((DOCS / "how-to").glob("*.md"))]


def makes_first(block: pages.Block) -> bool:
    return block.page == TUTORIAL and f"hydra.run.dir={FIRST}\n" in block.code


@pytest.fixture(scope="session")
def first(tmp_path_factory, commands):
    """The run folder that the tutorial makes, with the tutorial's own command."""
    if "TUTORIAL_RUN" in os.environ:
        return Path(os.environ["TUTORIAL_RUN"])
    folder = tmp_path_factory.mktemp("tutorial")
    (block,) = filter(makes_first, pages.blocks(TUTORIAL))
    pages.run(block, folder, {}, commands)
    return folder / FIRST


@pytest.fixture
def folder(tmp_path, first, monkeypatch):
    """A reader's folder after the tutorial; what Python blocks leave in this process goes."""
    shutil.copytree(first, tmp_path / FIRST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(METHODS) - built_in():
        del METHODS[name]
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_block_runs(page, folder, commands):
    names = {"__name__": "__main__"}
    for block in pages.blocks(page):
        if not makes_first(block):
            pages.run(block, folder, names, commands)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```\nls\n```\n", "needs a language"),
        ("```fortran\nls\n```\n", "needs a language"),
        ("<!-- skip -->\n```bash\nls\n```\n", "unknown directive"),
        ("<!-- not run -->\n```bash\nls\n```\n", "needs a value"),
        ("<!-- not run: why -->\n\n```bash\nls\n```\n", "no block after"),
        ("<!-- not run: why -->\n```text\nls\n```\n", "nothing to do"),
        ("<!-- smaller: -l -->\n```bash\nls\npwd\n```\n", "one command"),
        ("```bash\nls\n", "not closed"),
        ("<!-- check\nassert True\n", "not closed"),
    ],
)
def test_a_page_that_could_skip_something_is_refused(text, complaint, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(pages.PageError, match=complaint):
        list(pages.blocks(page))


def test_blocks_run_in_order_and_a_failure_says_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n<!-- file: a.txt -->\n```text\none\n```\n"
        "<!-- smaller: b.txt -->\n```bash\ncat \\\n  a.txt >\n```\n"
        "```python\nread = open('b.txt').read()\n```\n<!-- check\nassert read == 'one\\n'\n-->\n"
        "<!-- not run: it would fail -->\n```bash\nfalse\n```\n"
        "```bash\necho said\nfalse\n```\n```python\n1 / 0\n```\n",
        encoding="utf-8",
    )
    *good, failing, raising = pages.blocks(page)
    names: dict = {}
    for block in good:
        pages.run(block, tmp_path, names)
    assert names["read"] == "one\n"
    with pytest.raises(pages.PageError, match=r"page\.md:22: exit code 1(?s:.)*said"):
        pages.run(failing, tmp_path, names)
    with pytest.raises(ZeroDivisionError) as raised:
        pages.run(raising, tmp_path, names)
    last = raised.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 26)
