"""The map of the package is that of its files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[2] / "docs" / "_ext" / "tree.py"


def test_the_tree_has_a_line_for_every_file():
    spec = importlib.util.spec_from_file_location("tree", _FILE)
    assert spec is not None
    assert spec.loader is not None
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    page = tree.PAGE.read_text(encoding="utf-8")
    assert page == tree.replaced(page), "run `python docs/_ext/tree.py`"
