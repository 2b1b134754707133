"""The errors this package raises on purpose.

Every message names the cause and the way out. Wrong use of the callback inside a Trainer raises
Lightning's own ``MisconfigurationException`` instead, as Lightning users expect.
"""

import difflib
from collections.abc import Iterable

from influcoder_lightning.printable import printable


class InfluCoderError(Exception):
    """Base of all errors raised by this package; shown so that no file's text steers a terminal."""

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


class ConfigError(InfluCoderError, ValueError):
    """An option, or a combination of options, that cannot work."""


class DataError(InfluCoderError, ValueError):
    """Input rows, batches or ids that cannot be used."""


class RankingError(InfluCoderError, ValueError):
    """A ranking or selection that cannot be computed, or does not fit its pool."""


class StoreError(InfluCoderError, ValueError):
    """A store that is missing, damaged, of another schema, or would be overwritten."""


class CaptureError(InfluCoderError, RuntimeError):
    """Per-sample gradients could not be taken from a training step."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """How a message about an unknown word goes on: with the nearest one that is known.

    Example:
        >>> did_you_mean("cosin", ["cosine", "fisher"]), did_you_mean("x", ["cosine"])
        ("; did you mean 'cosine'?", '.')
    """
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
