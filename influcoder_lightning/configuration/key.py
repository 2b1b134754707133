"""One key of the configuration, and what it may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from influcoder_lightning.errors import ConfigError

TEXT, FLAG, NUMBER = "text", "true or false", "a number"
WHOLE, LIST, FUNCTION = "a whole number", "a list, like [1,2]", "callable"
WHOLES, NUMBERS = "a list of whole numbers, like [0,1,2]", "a list of numbers, like [0.1,1]"
_KINDS = {
    str: TEXT,
    bool: FLAG,
    int: WHOLE,
    float: NUMBER,
    list[str]: LIST,
    list[int]: WHOLES,
    list[float]: NUMBERS,
    Callable[..., Any]: FUNCTION,
}
_IN_LISTS = {WHOLES: WHOLE, NUMBERS: NUMBER}
# Far beyond any use; what is larger would only fill the memory.
_MOST_WHOLE = 2**31 - 1
_METADATA = "influcoder"


@dataclass(frozen=True)
class Key:
    """What is declared of a key.

    Attributes:
        name: with those of its sections, joined by dots.
        default: its value unless another is given.
        help: what it is for, in one line.
        kinds: of values; a value of any of them will do. Empty: it is checked where it is used.
        nullable: it may be null.
        least: the smallest number, or number in a list.
        above: numbers are larger than this one.
        most: the largest number, or number in a list.
        choices: the only texts.
    """

    name: str
    default: object
    help: str
    kinds: tuple[str, ...] = ()
    nullable: bool = False
    least: float | None = None
    above: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    def fault(self, value: object) -> str:
        """What the value must be; empty where it is that."""
        if not self.kinds:
            return ""
        if value is None:
            return "" if self.nullable else f"must be {self._wanted()}"
        if not any(is_a(value, kind) for kind in self.kinds):
            return f"must be {self._wanted()}"
        if self.choices and value not in self.choices:
            return f"must be {' or '.join(self.choices)}"
        for number in value if isinstance(value, list) else [value]:
            if is_a(number, NUMBER) and (fault := self._out_of_bounds(number)):
                return fault
        return ""

    def _wanted(self) -> str:
        kinds = " or ".join(self.kinds)
        if self.least is not None:
            each = ", each" if kinds in _IN_LISTS else ""
            return f"{kinds}{each} of at least {self.least}"
        return kinds if self.above is None else f"{kinds} above {self.above}"

    def _out_of_bounds(self, number: Any) -> str:
        low = self.least is not None and number < self.least
        if low or (self.above is not None and number <= self.above):
            return f"must be {self._wanted()}"
        most = self.most
        if isinstance(number, Integral):
            most = _MOST_WHOLE if most is None else most
            if number < -_MOST_WHOLE:
                return f"must be at least {-_MOST_WHOLE}"
        return "" if most is None or number <= most else f"must be at most {most}"


def key(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    name: str = "",
) -> Any:
    """A field of a section: a dataclass whose annotations are the kinds; limits as of `Key`.

    Args:
        default: a plain value; lists are copied.
        help: what it is for, in one line.
        name: of the key, where Python reserves it.
    """
    limits = {"least": least, "above": above, "most": most, "choices": choices}
    metadata = {_METADATA: {"help": help, **limits}, "name": name}
    if isinstance(default, list):
        return field(default_factory=lambda: [*default], metadata=metadata)
    return field(default=default, metadata=metadata)


def values(section: type) -> dict[str, Any]:
    """The defaults of a section, sections in it as dicts."""
    return {
        name: values(inner) if inner is not None else _default(declared)
        for name, declared, inner in _fields(section)
    }


def sections(section: type) -> Iterator[tuple[str, type]]:
    """The sections in a section, with their dotted names, each before those in it."""
    for name, _, inner in _fields(section):
        if inner is not None:
            yield name, inner
            yield from ((f"{name}.{deeper}", it) for deeper, it in sections(inner))


@cache
def keys(section: type) -> tuple[Key, ...]:
    """The keys of a section and of those in it."""
    return tuple(_keys(section, ""))


def check_arguments(section: type, given: Mapping[str, Any]) -> None:
    """Check arguments of Python against the keys of a section.

    Raises:
        ConfigError: names the argument, and what it must be.
    """
    for declared in keys(section):
        value = given[declared.name]
        if fault := declared.fault(value):
            raise ConfigError(f"`{declared.name}` {fault}, got {value!r:.60}.")


def _keys(section: type, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(section)
    for name, declared, inner in _fields(section):
        if inner is not None:
            yield from _keys(inner, f"{prefix}{name}.")
        else:
            kinds, nullable = _kinds(hints[declared.name])
            yield Key(
                f"{prefix}{name}",
                _default(declared),
                kinds=kinds,
                nullable=nullable,
                **declared.metadata[_METADATA],
            )


def _fields(section: type) -> Iterator[tuple[str, Field[Any], type | None]]:
    """Name, field, and section where it is one."""
    for declared in fields(section):
        if _METADATA in declared.metadata:
            yield declared.metadata["name"] or declared.name, declared, None
        else:
            assert isinstance(declared.default_factory, type), declared.name
            yield declared.name, declared, declared.default_factory


def _default(declared: Field[Any]) -> Any:
    made = declared.default_factory
    return declared.default if made is MISSING else made()


def _kinds(annotation: object) -> tuple[tuple[str, ...], bool]:
    """The kinds that an annotation allows, and whether None is one of them."""
    parts = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    nullable = NoneType in parts
    if Any in parts:
        return (), True
    names = [_KINDS[part] for part in parts if part is not NoneType]
    return tuple(names), nullable


def is_a(value: object, kind: str) -> bool:
    """Whether a value is of one of the kinds above."""
    if kind == FLAG or isinstance(value, bool):
        return kind == FLAG and isinstance(value, bool)
    if kind == NUMBER:
        return isinstance(value, Integral) or (isinstance(value, Real) and math.isfinite(value))
    if kind == FUNCTION:
        return callable(value)
    if kind in _IN_LISTS:
        return isinstance(value, list) and all(is_a(item, _IN_LISTS[kind]) for item in value)
    return isinstance(value, {WHOLE: Integral, TEXT: str, LIST: list}[kind])
