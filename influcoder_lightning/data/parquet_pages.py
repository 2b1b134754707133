"""What the pages of a Parquet column say of themselves, before one of them is unpacked.

A footer may lie about what its pages unpack to; a page's own header decides how much memory a
reader takes. Headers are Thrift structs in the compact protocol, of which this reads as much as
the format uses: https://parquet.apache.org/docs/file-format/data-pages/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Fields = dict[int, object]
_LONGEST, _DEEPEST = 2**20, 8  # bytes of a header, which has statistics; structs in each other
_STRUCT = 12
_TRUE, _FALSE, _BYTE, _INTS, _DOUBLE, _BINARY, _LISTS = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10)
_DELTA_BYTE_ARRAY = 7


@dataclass(frozen=True)
class Page:
    """One page: bytes when unpacked, and whether a text in it may repeat the one before."""

    unpacked: int
    repeats_text: bool


def pages(data: memoryview, start: int, end: int) -> Iterator[Page]:
    """The pages of a column between two places of a file.

    Raises:
        ValueError: what is there is no page header.
    """
    at = start
    while at < end:
        header, at = _struct(data[: min(end, at + _LONGEST)], at)
        unpacked, packed = _size(header.get(2)), _size(header.get(3))
        at += packed
        old, new = header.get(5), header.get(8)  # of data pages, by their version
        encodings = [old.get(2)] if isinstance(old, dict) else []
        encodings += [new.get(4)] if isinstance(new, dict) else []
        yield Page(unpacked, _DELTA_BYTE_ARRAY in encodings)


def _size(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError("a page header has no sizes")
    return value


def _struct(data: memoryview, at: int, depth: int = 0) -> tuple[Fields, int]:
    """Fields of a struct by their numbers, and the place behind it; lists are passed over."""
    fields: Fields = {}
    number = 0
    while True:
        head, at = _byte(data, at)
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _value(data, at, head & 15, depth)


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[object, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return _byte(data, at)
    if kind in _INTS:
        return _zigzag(data, at)
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        size, at = _varint(data, at)
        return None, at + size
    if depth < _DEEPEST and kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if depth < _DEEPEST and kind in _LISTS:
        return _passed_over(data, at, depth)
    raise ValueError("a page header that Parquet does not know")


def _passed_over(data: memoryview, at: int, depth: int) -> tuple[None, int]:
    head, at = _byte(data, at)
    size = head >> 4
    if size == 15:
        size, at = _varint(data, at)
    for _ in range(size):
        at += 1 if head & 15 in (_TRUE, _FALSE) else 0
        _, at = _value(data, at, head & 15, depth + 1)
    return None, at


def _zigzag(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte, at = _byte(data, at)
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
    raise ValueError("a page header with a number of more than 64 bits")


def _byte(data: memoryview, at: int) -> tuple[int, int]:
    if not 0 <= at < len(data):
        raise ValueError("a page header is cut off")
    return data[at], at + 1
