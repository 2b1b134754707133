"""Rows of JSON Lines and of JSON arrays, one after the other, each parsed when it is asked for."""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import BinaryIO

from influcoder_lightning.data.unread import UnreadRow, damage_named
from influcoder_lightning.errors import DataError
from influcoder_lightning.files import LONGEST

_CHUNK = 2**16
_SPACE = " \t\r\n"


def lines(path: Path, file: BinaryIO) -> Iterator[UnreadRow]:
    """The rows of a file that has one JSON object per line.

    Raises:
        DataError: a line is blank (but at the end), too long or damaged; names it.
    """
    blank = 0
    # Bytes are split at \n only: str.splitlines would also cut at U+2028 inside a string.
    for number in count(1):
        where = f"{path}:{number}"
        with damage_named(where):
            line = file.readline(LONGEST + 1)
        if len(line) > LONGEST:
            raise DataError(
                f"{where}: a line of more than {LONGEST:,} bytes. Each line needs one row; was "
                "the file damaged?"
            )
        if not line:
            return
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise DataError(f"{path}:{blank}: blank line between rows. Delete it.")
        encoding = "utf-8-sig" if number == 1 else "utf-8"
        yield UnreadRow(where, partial(_line_row, line, where, encoding))


def array(path: Path, file: BinaryIO) -> Iterator[UnreadRow]:
    """The rows of a file that is one JSON array of objects; one of them is in memory at a time.

    Raises:
        DataError: it is no JSON, goes on behind the array, or a row is too long; names the row.
    """
    text = _Window(path, file)
    text.skip("[", str(path))
    if text.next() != "]":
        for index in count():
            where = f"{path}: row {index}"
            yield UnreadRow(where, partial(_given, text.value(where)))
            if text.next() != ",":
                break
            text.skip(",", where)
    text.skip("]", str(path))
    if text.next():
        raise DataError(f"{path}: more text behind the array, at character {text.place:,}.")


def first_mark(file: BufferedReader) -> str:
    """The first character of a file that is no white space; where it stands does not change."""
    return file.peek(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()[:1].decode("ascii", "replace")


class _Window:
    """A window on a long text that moves forward."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._passed, self._ended = "", 0, 0, False

    @property
    def place(self) -> int:
        """Characters of the file before the place where the window stands."""
        return self._passed + self._at

    def next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more(_CHUNK):
                return ""

    def skip(self, mark: str, where: str) -> None:
        """Pass over a mark that has to come next."""
        found = self.next()
        if found != mark:
            what = repr(found) if found else "the end of the file"
            raise DataError(
                f"{where}: no valid JSON: {what} at character {self.place:,}, where {mark!r} is "
                "needed."
            )
        self._at += 1

    def value(self, where: str) -> object:
        """The object that comes next."""
        if self.next() != "{":
            raise DataError(
                f"{where}: a row must be an object, and at character {self.place:,} begins none."
            )
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                text, self._at = self._text[self._at : end], end
                return _encodable(value, text, where)
            except json.JSONDecodeError as error:  # or the rest of it was not read yet
                if not self._more(max(_CHUNK, len(self._text))):
                    raise _invalid(error.msg, where) from error
            except (ValueError, RecursionError) as error:
                raise _invalid(error, where) from error
            if len(self._text) > LONGEST:
                raise DataError(
                    f"{where}: no object of less than {LONGEST:,} characters. Was it damaged?"
                )

    def _more(self, size: int) -> bool:
        """Read on, and forget what is passed; False at the end."""
        self._text, self._passed, self._at = self._text[self._at :], self.place, 0
        before = len(self._text)
        while not self._ended and len(self._text) == before:
            data = self._file.read(size)
            self._ended = not data
            try:
                self._text += self._decoder.decode(data, final=self._ended)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self._path}: not UTF-8 behind character {self.place:,}. Save the file as "
                    "UTF-8."
                ) from error
        return len(self._text) > before


def _given(row: object) -> object:
    return row


def _line_row(line: bytes, where: str, encoding: str) -> object:
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 at byte {error.start}. Save the file as UTF-8."
        ) from error
    return _parsed(text, where)


def _parsed(text: str, where: str) -> object:
    try:
        row: object = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(error, where) from error
    return _encodable(row, text, where)


def _encodable(row: object, text: str, where: str) -> object:
    """A lone surrogate is legal in JSON, but no tokenizer and no UTF-8 file can hold it."""
    try:
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: the string has a lone surrogate (\\ud8xx). Remove it, or write the pair."
        ) from error
    return row


def _invalid(reason: object, where: str) -> DataError:
    return DataError(f"{where}: no valid JSON: {reason}. Each row needs one object.")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON; write null or a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is larger than a double can hold")
    return value


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; the parser itself would silently keep the last of two equal keys."""
    content = dict(pairs)
    if len(content) < len(pairs):
        again = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {again!r:.60} occurs twice")
    return content


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_no_repeats
)
