"""The tree of architecture.md, from the first line of every file of the package.

python docs/_ext/tree.py     rewrites the tree in docs/architecture.md; a test holds them equal
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "influcoder_lightning"
PAGE = ROOT / "docs" / "architecture.md"
_BEGIN, _END = "<!-- tree -->\n```text\n", "```\n<!-- end of the tree -->"


def tree() -> str:
    """One line per folder and file, folders first."""
    return "".join(f"{line}\n" for line in _lines(PACKAGE, 0))


def replaced(page: str) -> str:
    """The page with the tree of today."""
    before, _, rest = page.partition(_BEGIN)
    return before + _BEGIN + tree() + _END + rest.partition(_END)[2]


def _lines(folder: Path, depth: int) -> Iterator[str]:
    yield _line(f"{folder.name}/", folder / "__init__.py", depth)
    inside = [path for path in folder.iterdir() if path.suffix == ".py" or _is_package(path)]
    for path in sorted(inside, key=lambda path: (not path.is_dir(), path.name)):
        if path.is_dir():
            yield from _lines(path, depth + 1)
        elif path.name != "__init__.py":
            yield _line(path.name, path, depth + 1)


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()


def _line(name: str, file: Path, depth: int) -> str:
    document = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(document.partition("\n\n")[0].split())
    return f"{'  ' * depth}{name:<{34 - 2 * depth}}{first.partition('. ')[0].rstrip('.:')}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
