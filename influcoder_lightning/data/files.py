"""What may be opened: a regular file, and not more of it than makes sense."""

import os
import stat
from pathlib import Path

# A line, or a text that is parsed at once, is only longer where it is damaged: a sparse file can
# declare terabytes, and would take all memory before a parser says anything.
LONGEST = 2**26

_UNPACKED_FREE = 2**26


def most_unpacked(path: str | os.PathLike[str], times: int) -> int:
    """Bytes that a packed file may unpack to: 64 MiB, and so many times its own size.

    What packs better than its kind does was made to fill a memory.
    """
    return _UNPACKED_FREE + times * os.stat(path).st_size


def why_no_file(path: str | os.PathLike[str]) -> str:
    """Why this is no file that can be read to its end; empty where it is one.

    A pipe or a device is none: opening one waits for ever, or reads for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: NUL in the name
        return "no such file"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "a folder, not a file"
    return "" if stat.S_ISREG(mode) else "no regular file but a pipe, a socket or a device"


def read_whole(path: Path, most: int = LONGEST) -> bytes:
    """The whole of a file that is parsed at once.

    Raises:
        OSError: it is no regular file, or has more than `most` bytes.
    """
    if why := why_no_file(path):
        raise OSError(why)
    if path.stat().st_size > most:
        raise OSError(f"it has more than {most:,} bytes")
    return path.read_bytes()


def why_no_model(folder: Path) -> str:
    """Why a folder of a saved model must not be opened; empty where it may.

    Libraries that load models open what is there by name, and would wait for a pipe for ever.
    """
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and (why := why_no_file(path)) and why != "no such file":
            return f"{path.relative_to(folder)}: {why}"
    return ""
