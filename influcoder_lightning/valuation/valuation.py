"""A valuation in progress on one model: capture, queries, towers and store wired together.

`InfluenceCallback` drives it from a Trainer's hooks, `extract_features` from a plain loop.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from influcoder_lightning.capture.adapters import adapter_description, save_adapter
from influcoder_lightning.capture.batches import TokenBatch
from influcoder_lightning.capture.forward import SampleLosses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import (
    LoraLinear,
    compiled_parts,
    find_language_model,
    find_lora_linears,
    refuse_compiled,
    uncaptured_parameters,
)
from influcoder_lightning.capture.loss_observer import LossObserver
from influcoder_lightning.capture.queries import batch_texts, query_features
from influcoder_lightning.capture.query_order import QueryOrder
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.capture.suitability import refuse_unsuitable
from influcoder_lightning.capture.trained import TrainedLayers
from influcoder_lightning.capture.updates import update_rules
from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.cotraining import CoTraining, capacity
from influcoder_lightning.encoder.gradient_tower import TOWERS, GradientTower, RandomProjection
from influcoder_lightning.errors import CaptureError, DataError
from influcoder_lightning.finetune.models import load_tokenizer
from influcoder_lightning.processes import Processes
from influcoder_lightning.projection import Projector, build_projector
from influcoder_lightning.store.description import Counts, Description, Pointer
from influcoder_lightning.store.folder import RunFolder, read_description, refuse_existing
from influcoder_lightning.store.segments import SegmentWriter
from influcoder_lightning.valuation.finish import finish, finish_early
from influcoder_lightning.valuation.handed_rows import HandedRows
from influcoder_lightning.valuation.options import Options
from influcoder_lightning.valuation.recorder import Recorder
from influcoder_lightning.valuation.resume import refuse_pointer, restore, rewind, save, tidy
from influcoder_lightning.valuation.run_cost import run_cost

BUFFER_BYTES = 256 * 2**20  # sketches in memory: rows that wait, and rows the towers learn from
END = "final"


class Valuation:
    """Hooks attached, store open, ready for windows and rows.

    Args:
        module: holds the PEFT model.
        folder: of the store, the same in every process.
        options: shared options.
        config: recorded in the store beside them.
        pointer: what `save_state` returned, to go on from there; None: a new store.
        optimizer: of the training, where ``options.optimizer_features``.

    Raises:
        CaptureError: nothing to capture, or something that is not supported.
        StoreError: the folder already holds a store, another process writes to it, or it does not
            hold what ``pointer`` needs.
    """

    def __init__(
        self,
        module: nn.Module,
        folder: Path,
        options: Options,
        config: Mapping[str, object],
        pointer: Pointer | None = None,
        optimizer: Any = None,
    ) -> None:
        if isinstance(options.tokenizer, str):
            options = replace(options, tokenizer=load_tokenizer(options.tokenizer, "tokenizer"))
        compiled = bool(compiled_parts(module))
        if compiled and not options.allow_compiled:
            refuse_compiled(module)
        self.folder, self.options, self.processes = folder, options, Processes()
        self.module, self.model = module, find_language_model(module)
        refuse_unsuitable(self.model)
        self.reader = options.reader
        self.losses = SampleLosses(module, self.model, self.reader, options.batch_loss)
        linears = find_lora_linears(self.model)
        self._warn_uncaptured(linears)
        projector = build_projector(options.projector, linears, options.sketch_dim, options.seed)
        rules = update_rules(optimizer, linears) if options.optimizer_features else None
        self.capture = GradientCapture(linears, projector, rules, self.model)
        self._layers = TrainedLayers(self.model, linears)
        self.observer = LossObserver(self.model)
        self._own_seconds, self._begun = 0.0, perf_counter()
        self._run: RunFolder | None = None
        tower, self._cotraining = self._towers(projector.dim)
        description = self._described(projector, linears, config)
        self._description = self.processes.once(lambda: self._begin(description, pointer))
        self.counts: Counts = {"seen": 0, "kept_out": {}, "written": 0}
        try:
            self._start(tower, pointer)
        except BaseException:
            self._leave()
            raise
        self.capture.attach(compiled=compiled)
        self.observer.attach(compiled=compiled)

    def _start(self, tower: GradientTower, pointer: Pointer | None) -> None:
        options, folder = self.options, self.folder
        segments = SegmentWriter(
            folder,
            self.processes.rank,
            max_rows=options.segment_rows,
            max_seconds=options.segment_seconds,
        )
        self.recorder = Recorder(
            segments,
            tower,
            self._cotraining,
            keep_sketches=options.keep_sketches,
            towers=folder / TOWERS,
            processes=self.processes,
            handed=self._handed(tower),
        )
        self.restored: dict[str, Any] = {}
        self._query_order = QueryOrder()
        self._earlier: dict[str, float] | None = {"run_seconds": 0.0, "valuation_seconds": 0.0}
        if pointer is not None:
            self.restored = restore(folder, self.recorder, self.processes, pointer)
            self._earlier = self.restored.get("clock")
            self._query_order = QueryOrder(self.restored.get("query_order"))

    def _leave(self) -> None:
        if self._run is not None:
            self._run.release()

    def _towers(self, width: int) -> tuple[GradientTower, CoTraining | None]:
        options = self.options
        if not options.co_train:
            return RandomProjection(width, options.code_dim, options.seed), None
        tower = GradientTower(width, options.code_dim)
        if not self.processes.first:
            return tower, None
        return tower, CoTraining(
            tower,
            text_encoder=options.text_encoder,
            buffer_bytes=BUFFER_BYTES,
            seed=options.seed,
            tokenizer=options.tokenizer,
        )

    def _handed(self, tower: GradientTower) -> HandedRows | None:
        if not self.options.co_train:
            return None
        return HandedRows(self.processes, capacity(tower.sketch_dim, BUFFER_BYTES))

    def _described(
        self, projector: Projector, linears: list[LoraLinear], config: Mapping[str, object]
    ) -> Description:
        options = self.options
        name = "influcoder-lightning"
        return {
            "world_size": self.processes.size,
            "bounds": {"rows": options.segment_rows, "seconds": options.segment_seconds},
            "store": {
                "code_dim": options.code_dim,
                "code_dtype": options.code_dtype,
                "sketch_dim": projector.dim,
                "keep_sketches": options.keep_sketches,
                "updates": options.optimizer_features,
                "layers": [(x.name, *x.shape, x.offset) for x in linears],
                "attributes": {
                    "created_by": f"{name} {version(name)}",
                    "config": {**options.recorded(), **config},
                    "lora": adapter_description(self.model),
                    "projector": {
                        "name": projector.name,
                        "version": projector.version,
                        "dim": projector.dim,
                        "seed": options.seed,
                    },
                    "versions": library_versions(),
                },
            },
        }

    def _begin(self, description: Description, pointer: Pointer | None) -> Description:
        if pointer is None:
            refuse_existing(self.folder, self.options.overwrite)
        else:
            refuse_pointer(self.folder, pointer)
        self._run = RunFolder(self.folder)
        try:
            if pointer is not None:
                return rewind(self._run, pointer, description)
            self._run.start(description)
            return read_description(self.folder)
        except BaseException:
            self._run.release()
            raise

    @property
    def n_rows(self) -> int:
        """Rows taken in by this process, written or in the open segment."""
        before = self._description["base_rows"]
        return self.recorder.segments.n_rows + (before[self.processes.rank] if before else 0)

    @property
    def n_sealed(self) -> int:
        """Rows of this process that a crash cannot cost any more."""
        open_rows = self.recorder.segments.n_rows - self.recorder.segments.manifest.n_rows
        return self.n_rows - open_rows

    @property
    def seconds(self) -> float:
        """Time this valuation has taken from the run so far, since it began or went on."""
        return self._own_seconds + self.capture.seconds

    @property
    def text_loss(self) -> float:
        """Last loss of the sentence encoder (NaN where there is none)."""
        return float("nan") if self._cotraining is None else self._cotraining.text_loss

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block as the valuation's, each second once."""
        start, before = perf_counter(), self.seconds
        try:
            yield
        finally:
            counted = self.seconds - before  # by hooks and by blocks inside this one
            self._own_seconds += perf_counter() - start - counted

    def _clock(self) -> dict[str, float] | None:
        """Seconds of the run and of the valuation in this process, with those before a checkpoint.

        None where a checkpoint of an earlier release does not know them.
        """
        if self._earlier is None:
            return None
        now = {"run_seconds": perf_counter() - self._begun, "valuation_seconds": self.seconds}
        return {name: self._earlier[name] + value for name, value in now.items()}

    def open_window(self, epoch: int, step: int, queries: RowBatch | None) -> float | None:
        """Start a window and keep the adapter it starts with; returns the last one's drift."""
        index, changed = self.recorder.n_windows, self._layers.changed
        self._save_adapter(f"window_{index:05d}")
        self._note_frozen(index, self._layers.frozen())
        return self.recorder.open_window(epoch, step, queries, comparable=not changed)

    def layers_changed(self, *, between_steps: bool) -> bool:
        """Whether other layers train than when the window began; then a new one must begin.

        Raises:
            CaptureError: they changed inside an optimizer step (not ``between_steps``), or see
                `TrainedLayers.changed`.
        """
        changed = self._layers.changed
        if changed and not between_steps:
            raise CaptureError(
                "LoRA weights were frozen or unfrozen inside an optimizer step: rows of one step "
                "would hold different layers. Change `requires_grad` where a step begins, in a "
                "hook before on_train_batch_start (as on_train_epoch_start)."
            )
        return changed

    def _note_frozen(self, window: int, names: list[str]) -> None:
        attributes = self._description["store"]["attributes"]
        known = attributes.get("frozen_layers", {})
        if names or known:
            attributes["frozen_layers"] = {**known, str(window): names}
            if self._run is not None:
                self._run.describe(self._description)

    def trained_linears(self) -> list[LoraLinear]:
        """The captured layers that train now."""
        return [x for x in self.capture.linears if x.weight.requires_grad]

    def _save_adapter(self, name: str) -> None:
        save_adapter(self.model, self.folder / "adapters" / name, write=self.processes.first)

    def co_train(self) -> None:
        """One scheduled step of co-training."""
        if self._cotraining is not None:
            self._cotraining.step()

    def query_rows(
        self, batches: Iterable[Any], loss_function: Callable[[Any], Tensor], scale: float = 1.0
    ) -> RowBatch | None:
        """Features of all query samples now, see `query_features`, in the order of the first take.

        None, with a warning, where the training has diverged: there are none any more.
        """
        with self.timed():
            try:
                rows = query_features(
                    self.capture,
                    self.module,
                    batches,
                    loss_function,
                    reader=self.reader,
                    tokenizer=self.options.tokenizer,
                    scale=scale,
                )
                return self._query_order.aligned(rows)
            except DataError:
                if not (self.recorder.n_windows and self._diverged()):
                    raise
        rank_zero_warn(
            "influcoder: the weights of the adapter are no finite numbers any more (the training "
            "diverged; in 16-true, AdamW's eps=1e-8 is 0), so its queries have no gradient. Rows "
            "of before stay valid, within the windows of before."
        )
        return None

    def _diverged(self) -> bool:
        weights = (linear.weight for linear in self.capture.linears)
        return not all(bool(torch.isfinite(weight).all()) for weight in weights)

    def texts(self, batch: TokenBatch) -> list[TextRow] | None:
        """Texts of a pool batch, where co-training can use them."""
        return batch_texts(batch, self.options.tokenizer) if self.options.co_train else None

    def begin(self, batch: TokenBatch) -> None:
        """Get ready for the forward and backward pass of a training batch."""
        self.capture.begin(len(batch), segments=batch.segments)
        self.observer.begin(batch.labels, batch.segments)

    def begin_backward(self, unit: Tensor) -> None:
        """Say that the forward is over, and what brings each row into its sample's own unit."""
        self.capture.begin_backward(unit)
        self.observer.begin_backward()

    def cancel(self) -> None:
        """Drop a micro-batch that had no backward pass."""
        self.capture.cancel()
        self.observer.finish(0)

    def save_state(self, extra: Mapping[str, object]) -> Pointer:
        """Seal the open segment and keep all a checkpoint needs; returns what points to it."""
        return save(
            self.folder,
            self.recorder,
            self.processes,
            self._description,
            {**extra, "clock": self._clock(), "query_order": self._query_order.state()},
            self.options.keep_states,
        )

    def close(self, step: int, queries: RowBatch | None) -> float | None:
        """End the run, see `Recorder.close`; merges the segments, keeps the final adapter.

        Afterwards ``counts`` says what became of all samples, see `merge`.

        Raises:
            CaptureError: rows written and samples seen differ.
            StoreError: a segment went missing or was damaged.
        """
        clock, start = self._clock(), perf_counter()
        self.detach()
        self._save_adapter(END)
        drift = self.recorder.close(step, queries)
        clocks = self.processes.gather(clock)  # every process has sealed its part
        self.counts = self.processes.once(lambda: self._finish(lambda: run_cost(clocks, start)))
        self.processes.gather(None)  # nobody leaves the group while others still listen
        return drift

    def _finish(self, cost: Callable[[], dict[str, float] | None]) -> Counts:
        assert self._run is not None
        if self._cotraining is not None:
            text_tower = self._cotraining.finish_text_tower()
            if text_tower is not None:
                self._cotraining.save_text_tower(text_tower, self.folder / "encoder")
        own = self.recorder.segments.manifest
        counts = finish(self.folder, self._description, own=own, cost=cost)
        try:
            tidy(self._run)
        except OSError as error:
            rank_zero_warn(
                f"influcoder: the store in {self.folder} is complete, but what only the run needed "
                f"could not be removed from beside it ({error})."
            )
        self._leave()
        return counts

    def abort(self, step: int, reason: str) -> None:
        """End early, keeping what was captured; never raises, since an error is under way."""
        start = perf_counter()
        self.detach()
        try:
            clock = self._clock()
            if self._run is not None:
                self._description["note"] = reason
                with suppress(OSError):  # the rows matter more
                    self._run.describe(self._description)
            self.recorder.abort(step)
            if self._run is not None and self.processes.size == 1:
                finish_early(
                    self.folder, self._description, reason, lambda: run_cost([clock], start)
                )
        except Exception as error:
            rank_zero_warn(
                f"influcoder: the store at {self.folder} could not be closed ({error}). What was "
                "sealed is safe; opening the store merges it."
            )
        finally:
            self._leave()

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
