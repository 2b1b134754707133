"""The list of sealed segments of one process: a chain of lines, appended and synced; see `chain`.

States of an entry::

    new        no byte of its line is in the file
    torn       a part of the line is, at the end: the write was cut, and the entry does not count.
               The next append cuts it off; who reads it says so
    listed     the whole line is there: the entry counts, once it is synced
    synced     `Manifest.append` has returned

An append that fails or is interrupted cuts the file back to its last whole line. Where even that
fails, the next one reads the file to see in which state the entry is: flags in memory cannot know.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from influcoder_lightning.errors import StoreError
from influcoder_lightning.files import crc32, read_whole, sync, write_all, write_durably
from influcoder_lightning.store.chain import Listing, Segment, begun, extended, parsed

__all__ = ["Manifest", "Segment"]
MANIFEST = "manifest.jsonl"


class Manifest:
    """The sealed segments of one process, in order.

    Args:
        folder: of the process.
        generation: of the run; a list of another one belongs to what the run has left behind, and
            counts as empty. None: whatever the list belongs to.

    Raises:
        StoreError: the list is damaged, or is not there but segments are.
    """

    def __init__(self, folder: Path, generation: str | None = None) -> None:
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link; a store keeps its parts in its own folder.")
        self.folder = folder
        self.path = folder / MANIFEST
        self._generation = generation
        self._sound: set[str] = set()
        self._doubtful = False
        self._listing = self._read()
        self._report()

    @property
    def segments(self) -> list[Segment]:
        """The sealed segments."""
        return list(self._listing.segments)

    @property
    def n_rows(self) -> int:
        """Rows in all sealed segments."""
        return sum(segment.rows for segment in self._listing.segments)

    def free_number(self) -> int:
        """A number that no segment has had, whether its file was finished, listed, or neither."""
        names = (path.name.lstrip(".")[:8] for path in self.folder.iterdir())
        there = [int(name) for name in names if name.isdigit()]
        return max([self._listing.free, *(n + 1 for n in there)])

    def lists(self, name: str) -> bool:
        """Whether the segment of file ``name`` counts, so that it must not be written again.

        Raises:
            OSError: after a failure: the disk cannot say, or does not take what it has.
        """
        if self._doubtful:
            self._listing = self._read()
            sync(self.path)
            self._doubtful = False
        return any(segment.file == name for segment in self._listing.segments)

    def append(self, segment: Segment) -> None:
        """Make ``segment`` count; on return it is on the disk.

        Raises:
            OSError: it could not be written; the manifest is as it was.
        """
        was = self._listing
        line, listing = extended(was, segment)
        self._doubtful = True
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            if os.fstat(handle).st_size != was.size:
                os.ftruncate(handle, was.size)  # a torn line
            try:
                write_all(handle, line)
                os.fsync(handle)
            except BaseException:
                os.ftruncate(handle, was.size)
                raise
        finally:
            os.close(handle)
        self._sound.add(segment.file)  # just written, by ourselves
        self._listing = listing
        self._doubtful = False

    def keep(self, segments: Sequence[Segment]) -> None:
        """Forget all but ``segments``, and remove every other file of the folder.

        The list is replaced in one step; files that it no longer has are left-overs from then on.

        Raises:
            OSError: the disk does not take it.
        """
        line, listing = begun(self._generation, self.free_number())
        lines = [line]
        for segment in segments:
            line, listing = extended(listing, segment)
            lines.append(line)
        self._doubtful = True
        write_durably(self.path, lines)
        self._listing = listing
        self._doubtful = False
        names = {self.path.name, *(p.name for s in segments for p in s.paths(self.folder))}
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
            try:
                sound = segment.file in self._sound or crc32(path) == checksum
            except OSError as error:
                raise StoreError(f"{path} cannot be read: {error}.") from error
            if not sound:
                raise StoreError(
                    f"{path} is damaged (its checksum is not that of the manifest); it held "
                    f"{segment.rows} rows. Put the file back from a copy, or value the data again."
                )
        self._sound.add(segment.file)
        return self.folder / segment.file

    def _read(self) -> Listing:
        if not self.path.exists():
            if sealed := sorted(path.name for path in self.folder.glob("[0-9]*.h5")):
                raise StoreError(
                    f"{self.path} is missing: it lists the segments of this process, of which "
                    f"{sealed[0]} is there. Put it back from a copy, or value the data again."
                )
            return Listing(self._generation)
        try:
            content = read_whole(self.path, 2**30)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error}.") from error
        listing = parsed(self.path, content)
        if self._generation is None:
            self._generation = listing.generation
        if listing.generation not in (None, self._generation):
            return Listing(self._generation, listing.next_free)
        return listing

    def _report(self) -> None:
        """Say what is tolerated; refuse what a run cannot have left.

        Raises:
            StoreError: the list lacks segments.
        """
        listing = self._listing
        if not listing.chained:
            warnings.warn(
                f"{self.path} was written by release 0.1: its lines have no numbers and checksums, "
                "so that one that is missing or doubled would not be noticed.",
                stacklevel=3,
            )
        if listing.torn:
            warnings.warn(
                f"{self.path} ends in a line that was not finished when its process stopped; it "
                "was never reported as written and does not count.",
                stacklevel=3,
            )
        numbers = [path.name[:8] for path in self.folder.glob("[0-9]*.h5")]
        unlisted = sorted(n for n in numbers if n.isdigit() and int(n) >= listing.next_free)
        if len(unlisted) > 1 and listing.chained:
            raise StoreError(
                f"{self.path} is damaged: it lacks the segments {', '.join(unlisted[:5])}, which "
                "are in its folder. Put it back from a copy, or value the data again."
            )
        if unlisted:
            warnings.warn(
                f"{self.folder / unlisted[-1]}.h5 is not in the manifest: its process stopped "
                "before it was reported as written. It does not count, and a run that goes on "
                "removes it.",
                stacklevel=3,
            )
