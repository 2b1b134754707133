"""Text of strangers on a terminal: shown as it is written in Python, so that it steers nothing.

An id, a store's note or a name from a file may hold escape sequences, line ends that forge a line
of ours, or marks that turn the direction of writing.
"""

from __future__ import annotations

import logging


def printable(text: object, keep: str = "") -> str:
    r"""The text with everything that does not print escaped.

    Args:
        text: anything; `str` of it is shown.
        keep: characters that stay as they are, such as a line end.

    Example:
        >>> printable("a\x1b[31m\nb")
        'a\\x1b[31m\\nb'
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in shown
    )


class PrintableFormatter(logging.Formatter):
    """Log lines of the command: one record is one line, but for a traceback behind it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, as `printable` shows it."""
        return printable(super().formatMessage(record))
