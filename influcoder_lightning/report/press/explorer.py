"""The samples of a page as data: as many as fit, and never a character that ends the script."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

from influcoder_lightning.report.press.blocks import Samples

# Tried in this order; the last also drops samples. Characters of a cell.
_CUTS = (None, 2_000, 500)
# What would end the script element, start a comment in it, end a line of it, or not survive UTF-8;
# and marks that turn the direction of the source for whoever reads it.
_UNSAFE = re.compile(
    "[<>&\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\uffff]"
)


@dataclass(frozen=True)
class Shown:
    """The part of some samples that a page has.

    Attributes:
        data: JSON, safe inside a script element.
        n: how many samples.
        cut: most characters of a cell, None where all texts are whole.
    """

    data: str
    n: int
    cut: int | None


def fit(samples: Samples, budget: int) -> Shown:
    """All samples where `budget` bytes hold them; else with texts cut, else fewer of them.

    Those of `marks` stay longest, then the best and the worst.
    """
    places = range(len(samples.rows))
    for cut in _CUTS:
        lines = _within((_line(samples, place, cut) for place in places), budget)
        if len(lines) == len(samples.rows):
            return _shown(samples, lines, list(range(len(lines))), cut)
    lines = _within((_line(samples, place, cut) for place in _telling(samples)), budget)
    kept = [place for place, _ in zip(_telling(samples), lines, strict=False)]
    by_place = dict(zip(kept, lines, strict=True))
    return _shown(samples, [by_place[place] for place in sorted(kept)], sorted(kept), cut)


def script_json(content: object) -> str:
    """JSON that can stand in a script element; reads back as the same content.

    Example:
        >>> print(script_json({"text": "</script>"}))
        {"text":"\\u003c/script\\u003e"}
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _shown(samples: Samples, lines: list[str], places: list[int], cut: int | None) -> Shown:
    new = {place: at for at, place in enumerate(places)}
    marks = {
        name: [new[place] for place in marked if place in new]
        for name, marked in samples.marks.items()
    }
    head = script_json({"columns": list(samples.columns), "n": samples.n, "marks": marks})
    data = f'{head[:-1]},"rows":[{",".join(lines)}]}}'
    whole = cut is None or all(len(t) <= cut for p in places for t in _texts(samples, p))
    return Shown(data, len(lines), None if whole else cut)


def _line(samples: Samples, place: int, cut: int | None) -> str:
    """The cells of a row, and behind them its turns, where it has some."""
    cells: list[object] = [_value(value, cut) for value in samples.rows[place]]
    if samples.conversations:
        turns = samples.conversations[place]
        cells.append([[_value(who, cut), _value(said, cut)] for who, said in turns])
    return script_json(cells)


def _value(value: object, cut: int | None) -> str | float | None:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):  # six digits tell samples apart and spare a third of the bytes
        return float(f"{value:.6g}") if math.isfinite(value) else None
    text = str(value)
    return text if cut is None or len(text) <= cut else text[: cut - 1] + "…"


def _texts(samples: Samples, place: int) -> list[str]:
    found = [value for value in samples.rows[place] if isinstance(value, str)]
    if samples.conversations:
        found += [said for _, said in samples.conversations[place]]
    return found


def _within(lines: Iterable[str], budget: int) -> list[str]:
    """The first lines that fit, a comma each."""
    kept: list[str] = []
    for line in lines:
        budget -= len(line.encode("utf-8")) + 1
        if budget < 0:
            break
        kept.append(line)
    return kept


def _telling(samples: Samples) -> Iterator[int]:
    """Every place once: those with a mark in turn, then from both ends of the ranking."""
    n = len(samples.rows)
    ends = chain.from_iterable((at, n - 1 - at) for at in range((n + 1) // 2))
    marked = chain.from_iterable(zip_longest(*samples.marks.values()))
    seen: set[int] = set()
    for place in chain(marked, ends):
        if place is not None and place not in seen:
            seen.add(place)
            yield place
