"""What the command must know of a recipe; each is declared in the recipe's own file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from influcoder_lightning.run.settings import Settings

Facts = dict[str, str]
"""What came out, for the table that a run ends with: name -> value."""


@dataclass(frozen=True)
class Output:
    """A file or folder that recipes write.

    Attributes:
        name: inside the run folder.
        content: what is in it, for the report's list of files.
        label: what it is called where a run's closing table names its path; "": it does not.
        facts: reads from it what the closing table says.
    """

    name: str
    content: str
    label: str = ""
    facts: Callable[[Path], Facts] | None = None


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes:
        run: does it, in a run folder; returns what a sweep may minimise, where there is such a
            thing: a held-out loss.
        outputs: what it writes, in the order in which one looks at it.
        next_command: from its run folder, a command that goes on from there.
        takes_over: sections of the run in ``from`` that hold for this one, besides those that do
            for all.
        adopt: changes settings to what the run in ``from`` decides; gets the settings, the folder
            of that run, and the keys that were given, which hold.
        settle: changes settings to what others of them ask for; gets them, and the keys that were
            given, which hold.
        goes_on: whether the same command in the same folder takes up what is done.
        after_interruption: says from the settings, that command and the run folder how to go on,
            where the command alone does not.
        trains: whether it trains in this process, so that further devices take part.
        reuse: how a finished run's folder may be used again all the same.
    """

    run: Callable[[Settings, Path], float | None]
    outputs: tuple[Output, ...]
    next_command: Callable[[Path], str | None] | None = None
    takes_over: tuple[str, ...] = ()
    adopt: Callable[[Settings, Path, Collection[str]], None] | None = None
    settle: Callable[[Settings, Collection[str]], None] | None = None
    goes_on: bool = False
    after_interruption: Callable[[DictConfig, str, Path], str] | None = None
    trains: bool = False
    reuse: str = ""

    def how_to_resume(self, cfg: DictConfig, again: str, folder: Path) -> str:
        """What to do after an interruption.

        Args:
            cfg: as it was composed.
            again: the same command, for the same folder.
            folder: of the run.
        """
        if self.after_interruption is not None:
            return self.after_interruption(cfg, again, folder)
        return f"Go on where it stopped: {again}" if self.goes_on else f"Start anew: {again}"


def present(outputs: Iterable[Output], folder: Path) -> Iterator[tuple[Output, Path]]:
    """The outputs that are in a run folder, with their paths."""
    for output in outputs:
        if (folder / output.name).exists():
            yield output, folder / output.name
