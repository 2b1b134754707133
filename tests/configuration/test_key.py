"""What a key may hold follows from its annotation and limits, for the command and for Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning.configuration.key import check_arguments, key, keys, sections, values
from influcoder_lightning.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    """A section in a section."""

    share: float = key(0.5, "a share", above=0, most=1)


@dataclass(frozen=True)
class Outer:
    """A section."""

    from_: str | None = key(None, "a folder", name="from")
    n: int = key(3, "a count", least=1)
    flag: bool = key(False, "a flag")
    kind: str = key("a", "a kind", choices=("a", "b"))
    seeds: list[int] = key([1, 2], "seeds", least=0)
    either: str | int = key("x", "text or a number")
    function: Callable[..., Any] | None = key(None, "a function")
    anything: Any = key(None, "anything")
    inner: Inner = field(default_factory=Inner)


def fault(name: str, value: object) -> str:
    return {key.name: key for key in keys(Outer)}[name].fault(value)


def test_names_defaults_and_sections_are_those_of_the_class():
    assert [key.name for key in keys(Outer)] == [
        "from", "n", "flag", "kind", "seeds", "either", "function", "anything", "inner.share"
    ]  # fmt: skip
    assert dict(sections(Outer)) == {"inner": Inner}
    first = values(Outer)
    first["seeds"].append(9)
    assert values(Outer)["seeds"] == [1, 2]
    assert values(Outer)["inner"] == {"share": 0.5}


@given(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
)
def test_a_value_is_taken_exactly_where_its_type_and_limits_say(value):
    number = isinstance(value, int) and not isinstance(value, bool)
    assert (fault("n", value) == "") == (number and 1 <= value < 2**31)
    assert (fault("flag", value) == "") == isinstance(value, bool)
    assert (fault("from", value) == "") == (value is None or isinstance(value, str))
    assert (fault("kind", value) == "") == (value in ("a", "b") and isinstance(value, str))
    wholes = isinstance(value, list) and all(0 <= item < 2**31 for item in value)
    assert (fault("seeds", value) == "") == wholes
    fraction = number or isinstance(value, float)
    assert (fault("inner.share", value) == "") == (fraction and 0 < value <= 1)
    assert fault("anything", value) == ""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n", 0, "must be a whole number of at least 1"),
        ("n", 2**31, "must be at most 2147483647"),
        ("inner.share", 0, "must be a number above 0"),
        ("seeds", [-1], "must be a list of whole numbers, like [0,1,2], each of at least 0"),
        ("either", 1.5, "must be text or a whole number"),
        ("function", "len", "must be callable"),
        ("kind", "c", "must be a or b"),
    ],
)
def test_a_fault_says_what_the_value_must_be(name, value, words):
    assert fault(name, value) == words


def test_numbers_of_numpy_are_numbers():
    assert not fault("n", np.int64(3))
    assert not fault("inner.share", np.float32(0.5))


def test_an_argument_is_named_with_its_value():
    given = values(Outer) | {"inner.share": 0.5}
    check_arguments(Outer, given)
    with pytest.raises(ConfigError, match=r"`n` must be a whole number of at least 1, got 0\."):
        check_arguments(Outer, given | {"n": 0})
