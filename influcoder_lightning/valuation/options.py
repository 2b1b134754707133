"""The options of a valuation, whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.configuration.influence import InPython
from influcoder_lightning.configuration.key import check_arguments
from influcoder_lightning.projection import check_projector


@dataclass(frozen=True)
class Options(InPython):
    """What `InfluenceCallback` and `extract_features` have in common; see the callback.

    Raises:
        ConfigError: a value that none of them takes.
    """

    def __post_init__(self) -> None:
        check_arguments(InPython, vars(self))
        check_projector(self.projector)

    @property
    def reader(self) -> BatchReader:
        """How batches are read."""
        return BatchReader(
            self.sample_id_key, self.labels_key, self.labels_shifted, self.read_batch
        )

    def recorded(self) -> dict[str, Any]:
        """The options as plain values, for the store."""
        plain = (str, int, float, bool, type(None))
        return {
            name: value
            if isinstance(value, plain)
            else getattr(value, "__qualname__", type(value).__name__)
            for name, value in vars(self).items()
        }
