"""Fresh environments, and what pyproject.toml says belongs into them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,.-]+)\])?(?P<range>[^;]*)")


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def ranges(extras: list[str]) -> dict[str, str]:
    """Name and range of what the package with these extras depends on directly."""
    found: dict[str, str] = {}
    waiting = [*PROJECT["dependencies"], *(_of(extras))]
    while waiting:
        match = _REQUIREMENT.match(waiting.pop(0))
        assert match is not None
        if canonical(match["name"]) == PROJECT["name"]:
            waiting += _of(match["extras"].split(","))
        else:
            found[canonical(match["name"])] = match["range"].strip()
    return found


def _of(extras: list[str]) -> list[str]:
    return [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]


def fresh(folder: Path) -> Path:
    """The interpreter of a new environment in `folder`."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


def pip(python: Path, *words: str) -> None:
    """Run pip in the repository as a machine without a lock would: by the ranges alone."""
    unlocked = {k: v for k, v in os.environ.items() if not k.endswith("_CONSTRAINT")}
    subprocess.run([str(python), "-m", "pip", "-q", *words], cwd=ROOT, env=unlocked, check=True)
