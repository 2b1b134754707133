"""A valuation in progress on one model: capture, queries, towers and store wired together.

`InfluenceCallback` drives it from a Trainer's hooks, `extract_features` from a plain loop.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from influcoder_lightning.capture.adapters import adapter_description, save_adapter
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import (
    find_language_model,
    find_lora_linears,
    refuse_compiled,
    uncaptured_parameters,
)
from influcoder_lightning.capture.observer import LossObserver
from influcoder_lightning.capture.queries import batch_texts, query_features
from influcoder_lightning.capture.rows import RowBatch, Text
from influcoder_lightning.encoder.cotraining import CoTraining
from influcoder_lightning.encoder.gradient_tower import GradientTower, RandomProjection
from influcoder_lightning.projection import build_projector, check_projector
from influcoder_lightning.recorder import Recorder
from influcoder_lightning.store.writer import StoreWriter, refuse_existing

BUFFER_BYTES = 256 * 2**20  # sketches in memory: rows that wait, and rows the towers learn from
END = "final"


@dataclass(frozen=True)
class Options:
    """What `InfluenceCallback` and `extract_features` have in common; see the callback."""

    tokenizer: Any = None
    sample_id_key: str = "sample_id"
    labels_key: str | int = "labels"
    projector: str = "countsketch"
    sketch_dim: int = 8192
    code_dim: int = 512
    text_encoder: Any = None
    co_train: bool = True
    keep_sketches: bool = False
    overwrite: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_projector(self.projector)

    def recorded(self) -> dict[str, Any]:
        """The options as plain values, for the store."""
        plain = (str, int, float, bool, type(None))
        return {
            name: value if isinstance(value, plain) else type(value).__name__
            for name, value in vars(self).items()
        }


class Valuation:
    """Hooks attached, store open, ready for windows and rows.

    Args:
        module: holds the PEFT model.
        folder: of the store.
        options: shared options.
        config: recorded in the store beside them.

    Raises:
        CaptureError: nothing to capture, or something that is not supported.
        StoreError: the folder already holds a store.
    """

    def __init__(
        self, module: nn.Module, folder: Path, options: Options, config: Mapping[str, Any]
    ) -> None:
        refuse_existing(folder, options.overwrite)
        refuse_compiled(module)
        self.folder, self.options = folder, options
        self.model = find_language_model(module)
        linears = find_lora_linears(self.model)
        self._warn_uncaptured(linears)
        projector = build_projector(options.projector, linears, options.sketch_dim, options.seed)
        self.capture = GradientCapture(linears, projector)
        self.observer = LossObserver(self.model)
        self._own_seconds = 0.0
        if options.co_train:
            tower = GradientTower(projector.dim, options.code_dim)
            self._cotraining: CoTraining | None = CoTraining(
                tower,
                text_encoder=options.text_encoder,
                buffer_bytes=BUFFER_BYTES,
                seed=options.seed,
                tokenizer=options.tokenizer,
            )
        else:
            tower = RandomProjection(projector.dim, options.code_dim, options.seed)
            self._cotraining = None
        writer = StoreWriter.create(
            folder,
            code_dim=options.code_dim,
            sketch_dim=projector.dim,
            keep_sketches=options.keep_sketches,
            layers=[(x.name, *x.shape, x.offset) for x in linears],
            attributes={
                "created_by": f"influcoder-lightning {version('influcoder-lightning')}",
                "config": {**options.recorded(), **config},
                "lora": adapter_description(self.model),
                "projector": {
                    "name": projector.name,
                    "dim": projector.dim,
                    "seed": options.seed,
                },
                "versions": library_versions(),
            },
            overwrite=options.overwrite,
        )
        self.recorder = Recorder(writer, tower, self._cotraining, options.keep_sketches)
        self.capture.attach()
        self.observer.attach()

    @property
    def seconds(self) -> float:
        """Time this valuation has taken from the run so far."""
        return self._own_seconds + self.capture.seconds

    @property
    def text_loss(self) -> float:
        """Last loss of the sentence encoder (NaN where there is none)."""
        return float("nan") if self._cotraining is None else self._cotraining.text_loss

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block as the valuation's."""
        start = perf_counter()
        try:
            yield
        finally:
            self._own_seconds += perf_counter() - start

    def open_window(self, epoch: int, step: int, queries: RowBatch | None) -> float | None:
        """Start a window and keep the adapter it starts with; returns the last one's drift."""
        index = self.recorder.n_windows
        save_adapter(self.model, self.folder / "adapters" / f"window_{index:05d}")
        return self.recorder.open_window(epoch, step, queries)

    def co_train(self) -> None:
        """One scheduled step of co-training."""
        if self._cotraining is not None:
            self._cotraining.step()

    def query_rows(
        self, batches: Iterable[Any], loss_function: Callable[[Any], Tensor]
    ) -> RowBatch:
        """Features of all query samples now, see `query_features`."""
        return query_features(
            self.capture,
            self.model,
            batches,
            loss_function,
            sample_id_key=self.options.sample_id_key,
            labels_key=self.options.labels_key,
            tokenizer=self.options.tokenizer,
        )

    def texts(self, batch: Any, labels: Tensor) -> list[Text] | None:
        """Texts of a pool batch, where co-training can use them."""
        return batch_texts(batch, labels, self.options.tokenizer) if self._cotraining else None

    def begin(self, labels: Tensor) -> None:
        """Get ready for the forward and backward pass of a training batch with labels [B, T]."""
        self.capture.begin(len(labels))
        self.observer.begin(labels)

    def cancel(self) -> None:
        """Drop a micro-batch that had no backward pass."""
        self.capture.cancel()
        self.observer.finish(0)

    def close(self, step: int, queries: RowBatch | None) -> float | None:
        """End the run, see `Recorder.close`; also keeps the final adapter."""
        self.detach()
        save_adapter(self.model, self.folder / "adapters" / END)
        return self.recorder.close(step, queries)

    def abort(self, step: int, reason: str) -> None:
        """End early, keeping what was captured; never raises, since an error is under way."""
        self.detach()
        try:
            self.recorder.abort(step, reason)
        except Exception as error:
            rank_zero_warn(f"influcoder: the store at {self.folder} could not be closed: {error}")

    def detach(self) -> None:
        """Remove every hook from the model."""
        self.capture.detach()
        self.observer.detach()

    def _warn_uncaptured(self, linears: list[Any]) -> None:
        names = uncaptured_parameters(self.model, linears)
        if names:
            rank_zero_warn(
                f"influcoder: {len(names)} trainable parameters outside the LoRA linears are no "
                f"part of the influence feature: {', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}."
            )


def library_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("influcoder-lightning", "torch", "lightning", "transformers", "peft", "h5py", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
