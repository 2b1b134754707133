"""The errors this package raises on purpose.

Every message names the cause and the way out. Wrong use of the callback inside a Trainer raises
Lightning's own ``MisconfigurationException`` instead, as Lightning users expect.
"""

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
