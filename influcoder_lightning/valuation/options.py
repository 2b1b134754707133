"""The options of a valuation, whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from influcoder_lightning.capture.batches import BatchReader, ReadBatch
from influcoder_lightning.capture.forward import BatchLoss
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.projection import check_projector
from influcoder_lightning.store.codes import CODE_DTYPES


@dataclass(frozen=True)
class Options:
    """What `InfluenceCallback` and `extract_features` have in common; see the callback."""

    tokenizer: Any = None
    sample_id_key: str = "sample_id"
    labels_key: str | int = "labels"
    labels_shifted: bool = False
    read_batch: ReadBatch | None = None
    batch_loss: BatchLoss | None = None
    sanity_samples: int = 2
    projector: str = "countsketch"
    sketch_dim: int = 8192
    code_dim: int = 512
    code_dtype: str = "float16"
    text_encoder: Any = None
    co_train: bool = True
    keep_sketches: bool = False
    optimizer_features: bool = False
    overwrite: bool = False
    seed: int = 0
    segment_rows: int = 2048
    segment_seconds: float = 60.0
    keep_states: int = 3
    allow_compiled: bool = False

    def __post_init__(self) -> None:
        check_projector(self.projector)
        for name in ("sketch_dim", "code_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"`{name}` must be a positive integer, got {value!r}.")
        if self.code_dtype not in CODE_DTYPES:
            raise ConfigError(
                f"`code_dtype` must be {' or '.join(CODE_DTYPES)}, got {self.code_dtype!r:.60}."
            )
        for name in ("segment_rows", "segment_seconds", "keep_states"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be positive, got {getattr(self, name)!r}.")
        if not isinstance(self.sanity_samples, int) or self.sanity_samples < 0:
            raise ConfigError(
                f"`sanity_samples` must be an integer, 0 or more, got {self.sanity_samples!r}."
            )
        for name in ("read_batch", "batch_loss"):
            if not (getattr(self, name) is None or callable(getattr(self, name))):
                raise ConfigError(f"`{name}` must be callable, got {getattr(self, name)!r:.60}.")

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
