"""Damage to files, at random but repeatable: bytes, numbers, names, and whole pieces."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

# Numbers that size things: nothing, one, the ends of their types, and what fills any memory.
_EDGES = (0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, 2**31, 2**63, 10**30, 10**400, "", "x" * 10_000, "../../x",
    "/dev/zero", "/dev/stdin", "${oc.env:HOME}", "${x}", "???", "\x1b[31m", "\u202e", "=1+1",
    "(a|a?)+" * 12 + "$", [], [[]] * 100, {}, {"a": {"b": [1]}}, "1e999", ".nan", "\\ud800",
)  # fmt: skip
_WORD = re.compile(rb"[A-Za-z0-9_.+-]+")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four kinds of damage, one after the other."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_DAMAGE)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(data))
    end = len(data) if rng.random() < 0.3 else min(len(data), start + rng.randint(1, 64))
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(data))
    piece = data[start : start + rng.randint(1, 256)]
    return data[:start] + piece * rng.choice((2, 2, 10, 1000)) + data[start:]


def _edge(data: bytes, rng: random.Random) -> bytes:
    """A number at a border of its type where some number may have been."""
    width = rng.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    start = rng.randint(0, len(data) - width)
    value = rng.choice(_EDGES) % 2 ** (8 * width)
    return data[:start] + value.to_bytes(width, "little") + data[start + width :]


def _word(data: bytes, rng: random.Random) -> bytes:
    """A word or number of a text replaced by a value that means something else."""
    found = list(_WORD.finditer(data[:100_000]))
    if not found:
        return data
    place = rng.choice(found)
    value = json.dumps(rng.choice(_VALUES)).encode()
    if rng.random() < 0.3:
        value = value.strip(b'"')
    return data[: place.start()] + value + data[place.end() :]


def _value(data: bytes, rng: random.Random) -> bytes:
    """A value of a JSON document, at any depth, replaced by another kind."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return _word(data, rng)
    places = list(_places(content))
    if not places:
        return data
    holder, key = rng.choice(places)
    holder[key] = rng.choice(_VALUES)
    return json.dumps(content).encode("utf-8", "surrogatepass")


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder of a value in a JSON document, with the value's key or index."""
    if isinstance(content, dict | list):
        for key in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from _places(content[key])


_DAMAGE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _cut, _repeat, _edge, _word, _value, _value,
)  # fmt: skip
