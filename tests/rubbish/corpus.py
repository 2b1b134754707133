"""What a malformed input is, and how the package must meet it.

The inputs themselves are named in ``corpus_<surface>.py``; ``test_rubbish.py`` runs them all.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # no such limit on this system; the other checks hold there
    resource = None  # type: ignore[assignment]

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from influcoder_lightning.errors import InfluCoderError

DOCUMENTED = (InfluCoderError, MisconfigurationException)
ROOM = 512 * 2**20  # bytes that one input may make the process grow by, address space included
SECONDS = 10  # a FIFO that somebody opens would wait for ever


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        surface: what it pretends to be.
        name: what is wrong with it.
        make: writes it under a folder and returns what ``use`` is called with.
        use: what reads it.
        words: the error's message, a regular expression; None where the input is accepted.
        error: its documented type.
        accepted: where it is harmless: what must hold of the result.
        where: what the message must name, such as the file.
    """

    surface: str
    name: str
    make: Callable[[Path], Any]
    use: Callable[[Any], Any]
    words: str | None
    error: type[Exception] = InfluCoderError
    accepted: Callable[[Any], bool] | None = None
    where: str = ""

    def __str__(self) -> str:
        return f"{self.surface}: {self.name}"


class Canary:
    """Unpickled, it leaves a file behind: proof that code of an input was run."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def canary_path(folder: Path) -> Path:
    return folder.parent / "canary"


def canary_pickle(folder: Path) -> bytes:
    """A pickle that calls ``open`` on the canary's path as soon as it is loaded."""
    return pickle.dumps(Canary(canary_path(folder)), protocol=2)


def file_of(name: str, content: bytes | Callable[[Path], bytes]) -> Callable[[Path], Path]:
    """Writes one file and returns its path."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content(folder) if callable(content) else content)
        return path

    return make


def fifo_of(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def folder_of(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    return make


def link_of(name: str, target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def sparse_of(name: str, size: int, head: bytes = b"") -> Callable[[Path], Path]:
    """A file that declares ``size`` bytes and takes up next to none."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(head)
        os.truncate(path, size)
        return path

    return make


def safetensors(header: bytes, declared: int | None = None, body: bytes = b"") -> bytes:
    """A safetensors file, also one whose header declares another length than it has."""
    size = len(header) if declared is None else declared
    return size.to_bytes(8, "little") + header + body


def flipped(data: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[position % len(changed)] ^= 1 << (bit % 8)
    return bytes(changed)


def meet(case: Case, root: Path) -> None:
    """Give one input to what reads it: the documented error, and nothing else happens."""
    given, elsewhere = root / "given", root / "elsewhere"
    given.mkdir()
    elsewhere.mkdir()
    argument = made(case, given)
    before = outside(root)
    here = Path.cwd()
    os.chdir(elsewhere)
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error, result = outcome(lambda: case.use(argument))
    finally:
        os.chdir(here)
    assert not canary_path(given).exists(), f"{case}: code of the input was run"
    after = outside(root)
    assert after == before, f"{case}: files changed: {sorted(after.items() ^ before.items())}"
    if case.words is None:
        assert error is None, f"{case}: harmless, yet refused: {error!r}"
        assert case.accepted is not None
        assert case.accepted(result), f"{case}: {result!r}"
        return
    assert error is not None, f"{case}: taken for good: {result!r:.300}"
    assert isinstance(error, case.error), f"{case}: {type(error).__name__}: {error}"
    check_message(case, str(error))
    for cause in causes(error):
        assert not isinstance(cause, MemoryError | TimeoutError), f"{case}: {cause!r}"


def outside(root: Path) -> dict[str, str]:
    """What must stay as it is: all but the folders where an input's own run may write."""
    own = ("given/out", "elsewhere/run")
    return {path: kind for path, kind in tree(root).items() if not path.startswith(own)}


def made(case: Case, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about what is deliberately odd
        return case.make(folder)


def check_message(case: Case, message: str) -> None:
    assert case.words is not None
    assert re.search(case.words, message), f"{case}: {message!r}"
    assert case.where in message, f"{case} does not name {case.where}: {message!r}"
    assert len(message) < 3000, f"{case}: a message of {len(message)} characters"


def outcome(call: Callable[[], Any]) -> tuple[Exception | None, Any]:
    """The documented error, or the result; any other exception is the test's failure."""
    try:
        return None, call()
    except DOCUMENTED as error:
        return error, None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def limited() -> Iterator[None]:
    """Little room to grow and little time: what goes beyond raises MemoryError, TimeoutError."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {SECONDS} seconds")

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with _room():
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@contextmanager
def _room() -> Iterator[None]:
    statm = Path("/proc/self/statm")
    if resource is None or not statm.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def tree(root: Path) -> dict[str, str]:
    """Every path below a folder with its kind and content; links are not followed."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file() and path.stat().st_size < 2**24:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_file():
            found[name] = f"file of {path.stat().st_size}"
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found
