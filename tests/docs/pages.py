"""A documentation page as blocks that run: what a reader would copy, and hidden checks.

A page is Markdown. Its ```` ```bash ```` and ```` ```python ```` blocks are run in order; an HTML
comment on the line before a block, or alone, is a directive:

- ``<!-- not run: reason -->``: the next block is only shown.
- ``<!-- file: name.py -->``: the next block is written to that file instead of being run.
- ``<!-- smaller: key=value ... -->``: the next block, one command, is run with these words behind
  it, so that the test takes seconds where the reader's run takes minutes.
- ``<!-- check`` ... ``-->``: hidden Python code that is run where it stands.

Every block names its language; a language or a directive that is not known is an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RUN = ("bash", "python")
_SHOWN = ("text", "yaml", "json", "toml", "csv")
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>.*)$")
_COMMENT = re.compile(r"^<!--\s*(?P<name>not run|file|smaller|check)\b:?\s*(?P<value>.*)$")


class PageError(Exception):
    """A page that cannot be read as blocks, or a block that failed; says where."""


@dataclass(frozen=True)
class Block:
    """One block to run.

    Attributes:
        page: the file it stands in.
        line: of its first line of code, from 1.
        language: bash or python.
        code: without the indentation of the fence.
        file: write the code to this file, instead of running it.
        smaller: words to put behind the command.
    """

    page: Path
    line: int
    language: str
    code: str
    file: str = ""
    smaller: str = ""

    @property
    def where(self) -> str:
        """Page and line, as editors and terminals read them."""
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that are to be run or written, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    directive: tuple[str, str] | None = None
    at = 0
    while at < len(lines):
        line, start = lines[at], at + 1
        at += 1
        if fence := _FENCE.match(line):
            body, at = _until(lines, at, re.compile(rf"^ *{fence['ticks']}\s*$"), page, start)
            code = textwrap.dedent("\n".join(body)) + "\n"
            language = fence["language"].strip()
            yield from _block(page, start + 1, language, code, directive)
            directive = None
        elif directive is not None:
            raise PageError(f"{page}:{start}: no block after the directive {directive[0]!r}")
        elif line.startswith("<!--"):
            comment = _COMMENT.match(line)
            if comment is None:
                raise PageError(f"{page}:{start}: unknown directive {line!r}")
            if comment["name"] == "check":
                body, at = _until(lines, at, re.compile(r"^-->$"), page, start)
                yield Block(page, start + 1, "python", "\n".join(body) + "\n")
            elif not line.endswith("-->") or not (value := comment["value"][:-3].strip()):
                raise PageError(f"{page}:{start}: {comment['name']!r} needs a value on its line")
            else:
                directive = (comment["name"], value)


def run(
    block: Block, folder: Path, names: dict[str, Any], commands: Path = Path(sys.executable).parent
) -> None:
    """Run one block.

    Args:
        block: what to run, or to write to its file.
        folder: working folder of the page; Python blocks expect to be in it already.
        names: the page's Python variables.
        commands: folder of the commands that a block finds first.

    Raises:
        PageError: a command failed; with page, line and output. An error in Python comes as it is:
            its traceback names page and line.
    """
    if block.file:
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        # Empty lines before the code make the traceback's lines those of the page.
        code = "\n" * (block.line - 1) + block.code
        exec(compile(code, str(block.page), "exec"), names)
    else:
        command = block.code if not block.smaller else f"{block.code.rstrip()} {block.smaller}"
        places = [str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            env={
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                **({} if block.page.stem == "tutorial" else {"UNDRAWN": "1"}),  # see warm.py
                **os.environ,
                "PATH": os.pathsep.join(places),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        print(done.stdout)
        if done.returncode:
            raise PageError(
                f"{block.where}: exit code {done.returncode} of\n{command}\n{done.stdout}"
            )


def _block(
    page: Path, line: int, language: str, code: str, directive: tuple[str, str] | None
) -> Iterator[Block]:
    where = f"{page}:{line - 1}"
    if language in _RUN:
        name, value = directive or ("", "")
        if name == "not run":
            return
        if name == "smaller" and (language != "bash" or _commands(code) != 1):
            raise PageError(f"{where}: 'smaller' is for one command in a bash block")
        yield Block(
            page,
            line,
            language,
            code,
            file=value if name == "file" else "",
            smaller=value if name == "smaller" else "",
        )
    elif language in _SHOWN and directive is not None and directive[0] == "file":
        yield Block(page, line, language, code, file=directive[1])
    elif directive is not None:
        raise PageError(f"{where}: nothing to do with {directive[0]!r} for {language!r}")
    elif language not in _SHOWN and not re.fullmatch(r"\{[\w-]+\}.*", language):
        known = ", ".join((*_RUN, *_SHOWN))
        raise PageError(f"{where}: a block needs a language: {known}; got {language!r}")


def _commands(code: str) -> int:
    """Commands in a bash block, where a backslash at a line's end continues it."""
    joined = code.replace("\\\n", " ")
    return sum(bool(line.split("#")[0].strip()) for line in joined.splitlines())


def _until(
    lines: list[str], at: int, end: re.Pattern[str], page: Path, start: int
) -> tuple[list[str], int]:
    for stop in range(at, len(lines)):
        if end.match(lines[stop]):
            return lines[at:stop], stop + 1
    raise PageError(f"{page}:{start}: not closed")
