"""The lines of a manifest: numbered, chained, each with its own checksum.

The head says which run the list belongs to and which segment numbers are free. Each line after it
has its number and the checksum of the line before it::

    {"manifest": 2, "generation": "3c8b..", "free": 0, "checksum": "5d41402a"}
    {"number": 1, "before": "5d41402a", "file": "00000000.h5", ..., "checksum": "bc4b2a76"}

So a line that is missing, doubled, moved or changed is an error. A last line that was never
finished has no line end, or a block of it never came to the disk (zeros): it is torn, and does not
count.
Lists of release 0.1 have no head, no numbers and no checksums.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.flat import flat_path

_FORMAT = 2
_KINDS = {
    "file": str,
    "crc32": str,
    "flat_crc32": str,
    "rows": int,
    "seen": int,
    "kept_out": dict,
}


@dataclass(frozen=True)
class Segment:
    """What the manifest says of a sealed segment.

    Attributes:
        file: name inside the folder of its process.
        crc32: of the file.
        flat_crc32: of the file beside it that has the sketches, "" where there is none.
        rows: rows in it.
        seen: samples seen while it was open.
        waiting: rows are sketches that no tower version has encoded yet.
        kept_out: samples without a row, by reason.
    """

    file: str
    crc32: str
    rows: int
    seen: int
    waiting: bool
    flat_crc32: str = ""
    kept_out: dict[str, int] = field(default_factory=dict)

    def paths(self, folder: Path) -> dict[Path, str]:
        """Its files in ``folder``, and their checksums."""
        path = folder / self.file
        return {path: self.crc32} | ({flat_path(path): self.flat_crc32} if self.flat_crc32 else {})


@dataclass(frozen=True)
class Listing:
    """What the whole lines of a manifest say.

    Attributes:
        generation: of the run; None in lists of release 0.1.
        free: number from which on no segment had been begun when the list was.
        segments: the entries.
        size: of the lines, in bytes.
        checksum: of the last line.
        chained: the lines have checksums.
        torn: something follows that is no whole line.
    """

    generation: str | None = None
    free: int = 0
    segments: tuple[Segment, ...] = ()
    size: int = 0
    checksum: str = ""
    chained: bool = True
    torn: bool = False

    @property
    def next_free(self) -> int:
        """Number from which on no segment is known."""
        return max([self.free, *(int(s.file[:8]) + 1 for s in self.segments)])


def begun(generation: str | None, free: int) -> tuple[bytes, Listing]:
    """The head of a new list, and the list."""
    line, checksum = _line({"manifest": _FORMAT, "generation": generation, "free": free})
    return line, Listing(generation, free, size=len(line), checksum=checksum)


def extended(listing: Listing, segment: Segment) -> tuple[bytes, Listing]:
    """The line of ``segment`` behind ``listing``, and the list with it."""
    place = {"number": len(listing.segments) + 1, "before": listing.checksum}
    line, checksum = _line(place | asdict(segment))
    segments, size = (*listing.segments, segment), listing.size + len(line)
    return line, replace(listing, segments=segments, size=size, checksum=checksum, torn=False)


def parsed(path: Path, content: bytes) -> Listing:
    """The list that a file holds.

    Args:
        path: of the file, for messages.
        content: all of it.

    Raises:
        StoreError: a line is not what was written; names it.
    """
    *lines, rest = content.split(b"\n")
    if lines and not rest and b"\0" in lines[-1]:
        rest = lines.pop()
    chained = not lines or lines[0].startswith(b'{"manifest"')
    head, checksum, segments = Listing(chained=chained), "", list[Segment]()
    for number, line in enumerate(lines):
        try:
            if not chained:
                segments.append(_segment(json.loads(line)))
                continue
            values, own = checked_line(line)
            if number == 0:
                head = _head(values)
            else:
                segments.append(_segment(_in_its_place(values, number, checksum)))
            checksum = own
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(
                f"{path}, line {number + 1}: no entry of a segment ({error!s:.200})."
            ) from error
    size = sum(len(line) + 1 for line in lines)
    return replace(head, segments=tuple(segments), size=size, checksum=checksum, torn=bool(rest))


def sealed_line(values: dict[str, Any]) -> bytes:
    """A line with these values, and the checksum that goes with them."""
    return _line({name: value for name, value in values.items() if name != "checksum"})[0]


def _line(values: dict[str, Any]) -> tuple[bytes, str]:
    body = json.dumps(values).encode()[:-1]
    checksum = f"{zlib.crc32(body):08x}"
    return body + _end(checksum) + b"\n", checksum


def _end(checksum: str) -> bytes:
    return f', "checksum": "{checksum}"}}'.encode()


def checked_line(line: bytes) -> tuple[dict[str, Any], str]:
    """What a line says, without its checksum, and that.

    Raises:
        ValueError, TypeError, KeyError: it is no such line, or not what was written.
    """
    values = dict(json.loads(line))
    checksum = values.pop("checksum")
    end = _end(checksum)
    if not line.endswith(end) or f"{zlib.crc32(line[: -len(end)]):08x}" != checksum:
        raise ValueError("its checksum is not that of what it says")
    return values, checksum


def _head(values: dict[str, Any]) -> Listing:
    if values["manifest"] != _FORMAT:
        raise ValueError(f"it is of format {values['manifest']!r:.20}; open it with its release")
    generation, free = values["generation"], values["free"]
    if not isinstance(generation, str | None) or type(free) is not int or free < 0:
        raise ValueError("it is no head of a list")
    return Listing(generation, free)


def _in_its_place(values: dict[str, Any], number: int, before: str) -> dict[str, Any]:
    if (values.pop("number"), values.pop("before")) != (number, before):
        raise ValueError("the line before it is missing, doubled or not in its place")
    return values


def _segment(values: dict[str, Any]) -> Segment:
    segment = Segment(**values)
    wrong = [name for name, kind in _KINDS.items() if type(getattr(segment, name)) is not kind]
    wrong += [] if all(type(n) is int for n in segment.kept_out.values()) else ["kept_out"]
    named = Path(segment.file).name == segment.file and segment.file[:8].isdecimal()
    if wrong or not named or segment.rows < 0:
        raise ValueError(f"`{wrong[0] if wrong else 'file'}` is not what a manifest holds")
    return segment
