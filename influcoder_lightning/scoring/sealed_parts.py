"""Scores on disk in sealed parts, so that an interrupted run goes on behind what is done.

    scores/settings.json      what every score depends on
    scores/part-00012.jsonl   {"id", "score", "confidence"} of rows 12 n to 13 n - 1, in their order

A part is open in memory, then written under another name, flushed to the disk and renamed: it is
whole, or not there. Which process scores a part does not matter, so that a run may go on with
another number of processes.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.rows import complete_ids
from influcoder_lightning.errors import ConfigError, DataError
from influcoder_lightning.files import durable_path, read_whole
from influcoder_lightning.ids import IdArray, as_id_array, checked_id

SETTINGS = "settings.json"
Line = tuple[int | str | None, float, float]
"""Id (None: the row has none), score and confidence of a row."""


@dataclass(frozen=True)
class Scores:
    """All rows of a pool, scored.

    Attributes:
        ids: [N] int64 or object array of str, as `row_ids` gives them.
        scores: [N] float64.
        confidence: [N] float32.
    """

    ids: IdArray
    scores: NDArray[np.float64]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class ScoreParts:
    """The parts of a pool of `n_rows` rows, `part_rows` in each but the last."""

    folder: Path
    n_rows: int
    part_rows: int

    def begin(self, settings: dict[str, object], resume: bool) -> None:
        """Take the folder for scores that depend on these settings.

        Raises:
            ConfigError: it holds scores already and `resume` is false, or they depend on others.
        """
        self.refuse_existing(resume)
        for unfinished in self.folder.glob(".*.part"):  # of a process that was killed
            unfinished.unlink()
        path = self.folder / SETTINGS
        settings = settings | {"n_rows": self.n_rows, "part_rows": self.part_rows}
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with durable_path(path) as part:
                part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            return
        before = _json(path, _content(path))
        before = before if isinstance(before, dict) else {}
        if different := [k for k in {**settings, **before} if before.get(k) != settings.get(k)]:
            raise ConfigError(
                f"{self.folder} holds scores that depend on something else: "
                f"{', '.join(different)} changed since. Repeat that command, choose another "
                "hydra.run.dir, or delete that folder."
            )

    def refuse_existing(self, resume: bool) -> None:
        """Refuse a folder that holds scores already, unless the run goes on with them.

        Raises:
            ConfigError: it does.
        """
        if (self.folder / SETTINGS).exists() and not resume:
            raise ConfigError(
                f"{self.folder} already holds scores. Go on with them by resume=true, choose "
                "another hydra.run.dir, or delete that folder."
            )

    def size(self, part: int) -> int:
        """Rows in a part."""
        return min(self.part_rows, self.n_rows - part * self.part_rows)

    def missing(self) -> list[int]:
        """Parts that are not sealed, in their order."""
        n_parts = -(-self.n_rows // self.part_rows)
        return [part for part in range(n_parts) if not self._path(part).exists()]

    def n_sealed_rows(self) -> int:
        """Rows that are scored for good."""
        return self.n_rows - sum(self.size(part) for part in self.missing())

    def seal(self, part: int, lines: Sequence[Line]) -> None:
        """Write a part; on return it is on the disk."""
        names = ("id", "score", "confidence")
        with durable_path(self._path(part)) as path, path.open("w", encoding="utf-8") as file:
            for line in lines:
                named = dict(zip(names, line, strict=True))
                file.write(json.dumps(named, ensure_ascii=False) + "\n")

    def read(self) -> Scores:
        """All scores, once no part is missing.

        Holds 20 bytes for each row; text ids take about 100 more.

        Raises:
            ConfigError: a part is damaged, or has not the rows that it should have.
            DataError: ids that cannot be told apart, as `row_ids`.
        """
        scores = np.empty(self.n_rows, dtype=np.float64)
        confidence = np.empty(self.n_rows, dtype=np.float32)
        ids = _Ids()
        row = 0
        for part in range(-(-self.n_rows // self.part_rows)):
            for name, score, sure in self._lines(part):
                ids.add(name)
                scores[row], confidence[row] = score, sure
                row += 1
        return Scores(ids.complete(), scores, confidence)

    def _lines(self, part: int) -> Iterator[Line]:
        path = self._path(part)
        lines = _content(path).splitlines()  # of bytes; JSON has no other line ends in it
        if len(lines) != self.size(part):
            raise _damaged(path, f"{len(lines)} rows, not {self.size(part)}")
        for line in lines:
            row = _json(path, line)
            try:
                name, score, sure = row["id"], row["score"], row["confidence"]
                if not isinstance(score, float) or not isinstance(sure, float):
                    raise TypeError(f"a row is {row!r:.100}")
                name = None if name is None else checked_id(name, "a row")
            except (TypeError, KeyError, DataError) as error:
                raise _damaged(path, error) from error
            yield name, score, sure

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.jsonl"


class _Ids:
    """Ids of rows; 8 bytes each for as long as all rows give an integer, or none does."""

    def __init__(self) -> None:
        self._integers, self._n_without = array("q"), 0
        self._mixed: list[int | str | None] | None = None

    def add(self, name: int | str | None) -> None:
        if self._mixed is not None:
            self._mixed.append(name)
        elif name is None and not self._integers:
            self._n_without += 1
        elif isinstance(name, int) and not self._n_without:
            self._integers.append(name)
        else:
            self._mixed = [*([None] * self._n_without), *self._integers, name]

    def complete(self) -> IdArray:
        if self._mixed is not None:
            return as_id_array(complete_ids(self._mixed))
        if self._n_without:
            return np.arange(self._n_without, dtype=np.int64)
        return np.frombuffer(self._integers, dtype=np.int64)


def _content(path: Path) -> bytes:
    try:
        return read_whole(path)
    except OSError as error:
        raise _damaged(path, error) from error


def _json(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: object) -> ConfigError:
    return ConfigError(f"{path} is damaged ({reason!s:.200}); delete it to score its rows anew.")
