"""The table that a run ends with: what came out, where it is, and what to do next."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from influcoder_lightning.printable import printable
from influcoder_lightning.report.press.units import duration
from influcoder_lightning.run.recipe import Facts, Recipe, present
from influcoder_lightning.run.run_folder import shown_path

_REPORTS = ("report.html", "report.md")


def print_summary(name: str, recipe: Recipe, folder: Path, seconds: float) -> None:
    """Print the closing table of a finished run to stdout: drawn on a terminal, else plain.

    Args:
        name: of the recipe.
        recipe: that was run.
        folder: of the run.
        seconds: that it took.
    """
    facts = {printable(name): printable(value) for name, value in outcome(recipe, folder).items()}
    files = files_of(recipe, folder)
    title = f"{name}: done in {duration(seconds)}"
    if sys.stdout.isatty():
        Console().print(_drawn(title, facts, files))
    else:
        print(_plain(title, facts | files))
    command = None if recipe.next_command is None else recipe.next_command(folder)
    if command is not None:
        print(f"next: {command}")


def outcome(recipe: Recipe, folder: Path) -> Facts:
    """What came out, as the run's files say: name -> value."""
    facts: Facts = {}
    for output, path in present(recipe.outputs, folder):
        if output.facts is not None:
            facts |= output.facts(path)
    return facts


def files_of(recipe: Recipe, folder: Path) -> Facts:
    """What lies in the run folder and is for people: what it is -> its path."""
    found: Facts = {}
    for name in _REPORTS:
        if (folder / name).exists():
            found.setdefault("report", shown_path(folder / name))
    for output, path in present(recipe.outputs, folder):
        if output.label:
            found[output.label] = shown_path(path)
    return found or {"folder": shown_path(folder)}


def _drawn(title: str, facts: Facts, files: Facts) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=SIMPLE_HEAD)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    table.show_header = False
    for part in (facts, files):
        for name, value in part.items():
            table.add_row(name, Text(value))
        table.add_section()
    return table


def _plain(title: str, facts: Facts) -> str:
    width = max(map(len, facts))
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in facts.items())])
