"""The list of sealed segments of one process: one JSON line each, appended and synced.

A line that a crash tore in half is the last one, has no line end, and is ignored: its segment was
never reported as written. Any other damage is an error.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from influcoder_lightning.data.files import read_whole
from influcoder_lightning.durable import crc32, durable_path
from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.flat import flat_path

MANIFEST = "manifest.jsonl"


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


class Manifest:
    """The sealed segments of one process, in order.

    Args:
        folder: of the process.
    """

    def __init__(self, folder: Path) -> None:
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link; a store keeps its parts in its own folder.")
        self.folder = folder
        self.path = folder / MANIFEST
        self.segments: list[Segment] = _read(self.path) if self.path.exists() else []
        self._sound: set[str] = set()

    @property
    def n_rows(self) -> int:
        """Rows in all sealed segments."""
        return sum(segment.rows for segment in self.segments)

    def append(self, segment: Segment) -> None:
        """Make ``segment`` count; on return it is on the disk.

        Raises:
            OSError: it could not be written; the manifest is as it was.
        """
        with self.path.open("ab") as file:
            before = file.tell()
            try:
                file.write(_line(segment))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
        self.segments.append(segment)
        self._sound.add(segment.file)  # just written, by ourselves

    def keep(self, segments: list[Segment]) -> None:
        """Forget all but ``segments``, and remove every other file of the folder."""
        with durable_path(self.path) as part:
            part.write_bytes(b"".join(map(_line, segments)))
        self.segments = list(segments)
        names = {path.name for s in segments for path in s.paths(self.folder)} | {MANIFEST}
        for path in self.folder.iterdir():
            if path.name not in names:
                path.unlink()

    def verified(self, segment: Segment) -> Path:
        """The file of a segment; it and its sketches are compared with their checksums once.

        Raises:
            StoreError: it is missing, or not what was sealed.
        """
        for path, checksum in segment.paths(self.folder).items():
            if not path.is_file() or path.is_symlink():
                raise StoreError(f"{path} is missing: it holds {segment.rows} rows of this store.")
            if segment.file not in self._sound and crc32(path) != checksum:
                raise StoreError(
                    f"{path} is damaged (its checksum is not that of the manifest); it held "
                    f"{segment.rows} rows. Put the file back from a copy, or value the data again."
                )
        self._sound.add(segment.file)
        return self.folder / segment.file


def _line(segment: Segment) -> bytes:
    return json.dumps(asdict(segment)).encode() + b"\n"


def _read(path: Path) -> list[Segment]:
    try:
        *lines, torn = read_whole(path, 2**30).split(b"\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    del torn
    segments = []
    for number, line in enumerate(lines, start=1):
        try:
            segments.append(_parsed(json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{path}, line {number}: no entry of a segment ({error}).") from error
    return segments


def _parsed(value: dict[str, Any]) -> Segment:
    segment = Segment(**value)
    kinds = {
        "file": str,
        "crc32": str,
        "flat_crc32": str,
        "rows": int,
        "seen": int,
        "kept_out": dict,
    }
    wrong = [name for name, kind in kinds.items() if type(getattr(segment, name)) is not kind]
    wrong += [] if all(type(n) is int for n in segment.kept_out.values()) else ["kept_out"]
    if wrong or Path(segment.file).name != segment.file or segment.rows < 0:
        raise ValueError(f"`{wrong[0] if wrong else 'file'}` is not what a manifest holds")
    return segment
