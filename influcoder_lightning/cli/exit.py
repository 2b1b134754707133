"""How the command ends: errors as one line on stderr that says what to do, and an exit code.

Errors that the package raises on purpose, and those of Hydra about the command line, end with
code 1; an interruption with 130. Anything else is a mistake of this package, and keeps its
traceback. HYDRA_FULL_ERROR=1 shows where every error comes from.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from hydra.errors import HydraException, OverrideParseException

from influcoder_lightning.errors import InfluCoderError
from influcoder_lightning.printable import printable

FULL = "HYDRA_FULL_ERROR"
_set_here = False


def full_errors() -> bool:
    """Whether the user asked for whole tracebacks."""
    return os.environ.get(FULL) == "1" and not _set_here


@contextmanager
def raised_by_hydra() -> Iterator[None]:
    """Hydra hands its errors on, where it would print several lines and leave."""
    global _set_here
    before = os.environ.get(FULL, "0")
    os.environ[FULL], _set_here = "1", True
    try:
        yield
    finally:
        os.environ[FULL], _set_here = before, False


@contextmanager
def ending(after_interruption: Callable[[], str] = str) -> Iterator[None]:
    """Turn what the block raises into the command's end.

    Args:
        after_interruption: asked, when it was interrupted, how to go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        _interrupted(after_interruption())
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's way to end a training
            _interrupted(after_interruption())
        raise
    except Exception as error:
        if full_errors():
            raise
        message = message_of(error)
        if message is None:
            traceback.print_exception(error)
            message = (
                f"{type(error).__name__} was not expected: a mistake of influcoder, or of a "
                f"library that it uses. Please report the lines above with the command and its "
                f"config; {FULL}=1 shows all of the traceback."
            )
        stop_with(message, cause=error)


def message_of(error: BaseException) -> str | None:
    """What to tell people about an error; None for one that nobody expected."""
    if isinstance(error, HydraException):
        return _hydra(error)
    # Lightning takes seconds to import; an error of its own says that it is there.
    lightning = sys.modules.get("lightning.pytorch.utilities.exceptions")
    expected = (InfluCoderError, *([lightning.MisconfigurationException] if lightning else []))
    if isinstance(error, expected):
        return str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and (full or (error.filename is not None and error.errno)):
        return (
            f"{error.filename or 'writing failed'}: {error.strerror}. Choose another folder with "
            "hydra.run.dir=..., or make room and set the rights of this one."
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"out of memory ({str(error).splitlines()[0] if str(error) else 'no detail'}). Try a "
            "smaller train.batch_size (and train.accumulate to make up for it), train.max_length "
            "or model."
        )
    return None


def stop_with(message: str, code: int = 1, cause: BaseException | None = None) -> NoReturn:
    """End the command with one line on stderr."""
    print(f"influcoder: {printable(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(code) from cause


def _interrupted(hint: str) -> NoReturn:
    stop_with(f"interrupted. {hint}".rstrip(), 130)


def _hydra(error: HydraException) -> str:
    """Hydra's message without its links, and with a hint where the shell took quotes away."""
    text = str(error).split("Config search path:")[0]
    if error.__cause__ is not None and str(error.__cause__):
        text += f": {str(error.__cause__).splitlines()[0]}"
    text = re.sub(r"See https?://\S+[^\n]*", "", text)
    text = re.sub(r"To append to your config use \S+", "", text)
    hint = "`influcoder --cfg job` lists all keys."
    if isinstance(error, OverrideParseException):
        hint = "Quote a value with special characters twice: 'key=\"a=b\"'."
    return f"{' '.join(text.split()).rstrip('.')}. {hint}"
