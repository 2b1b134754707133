"""Links to files outside `docs/` are led to the page that shows them on the site."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def links(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    yield importlib.import_module("repository_links")
    del sys.modules["repository_links"]


@pytest.mark.parametrize(
    ("link", "source", "page", "expected"),
    [
        ("../benchmarks/README.md#lds", "method.md", "method.md", "benchmarks.md#lds"),
        ("../benchmarks/", "performance.md", "performance.md", "benchmarks.md"),
        ("../../CHANGELOG.md", "how-to/loop.md", "how-to/loop.md", "../changelog.md"),
        ("../docs/method.md#a", "../benchmarks/README.md", "benchmarks.md", "method.md#a"),
        ("docs/guarantees.md", "../CONTRIBUTING.md", "contributing.md", "guarantees.md"),
        ("../conf/config.yaml", "method.md", "method.md", "../conf/config.yaml"),
        ("method.md", "tutorial.md", "tutorial.md", "method.md"),
        ("#here", "tutorial.md", "tutorial.md", "#here"),
        ("https://example.org/a.md", "tutorial.md", "tutorial.md", "https://example.org/a.md"),
        ("no/such/file.md", "tutorial.md", "tutorial.md", "no/such/file.md"),
    ],
)
def test_a_link_of_a_file_on_its_page(links, link, source, page, expected):
    text = links.rewritten(f"[x]({link}) and `f(a)[0](b)`", DOCS / source, DOCS / page)
    assert text == f"[x]({expected}) and `f(a)[0](b)`"
