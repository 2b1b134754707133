"""Values every training sample while a LoRA fine-tuning run goes on, which stays as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from influcoder_lightning.callback.arguments import (
    check_queries,
    hooked_queries,
    resolve_function,
    resolve_reduction,
)
from influcoder_lightning.callback.cautions import DriftWarning, warn_reduction
from influcoder_lightning.callback.checkpoints import Checkpointed
from influcoder_lightning.callback.closures import refuse_closures, refuse_second_pass
from influcoder_lightning.callback.failure import valuing
from influcoder_lightning.callback.learning_rate import mean_rate, rate_shares
from influcoder_lightning.callback.metrics import logs_now, report_counts
from influcoder_lightning.callback.sanity import SanityCheck
from influcoder_lightning.callback.scaling import StepRows, loss_scale
from influcoder_lightning.callback.support import refuse_other_trainer, refuse_uncapturable
from influcoder_lightning.capture.gradients import CapturedRows
from influcoder_lightning.capture.microbatch import MicroBatch
from influcoder_lightning.capture.padding import n_before_padding
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.configuration.influence import OfCallback
from influcoder_lightning.configuration.key import check_arguments
from influcoder_lightning.data.shared_ids import refuse_shared_ids
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.processes import Processes
from influcoder_lightning.store.description import Pointer
from influcoder_lightning.store.schema import FILE_NAME
from influcoder_lightning.valuation.valuation import Options, Valuation

PADDING = "repeated by the distributed sampler to even out the processes"


class InfluenceCallback(Checkpointed):
    r"""Captures every sample's LoRA gradient during training and writes an influence store.

    Batches must carry sample ids: ``DataLoader(with_sample_ids(dataset), ...)`` or
    ``collate_fn=collate_with_sample_ids(...)``.

    Args:
        dirpath: folder of the store; default ``influence/`` in the Trainer's log directory.
        query_dataloader: batches of query samples, re-iterable and in a fixed order. None: what
            ``query_dataloader()`` of the datamodule, or else of the module, returns, where there is
            such a method. Without queries only ``self`` and baselines can rank until
            `InfluenceStore.add_queries` is called.
        tokenizer: turns token ids back into text for the text tower, unless batches carry
            ``prompt`` and ``response`` texts themselves. A tokenizer, its folder or its hub name.
        sample_id_key: key of the ids in a dict batch.
        labels_key: key of the token labels in a dict batch; in a tuple or list batch an index, or
            (any text) the last element.
        labels_shifted: the label at a position is that position's target, not the target of the
            position before, as `transformers` has it.
        read_batch: ``batch -> (inputs, labels, ids)``, for batches of other kinds: named tuples,
            dataclasses, nested dicts, several loaders. ``inputs`` are keyword arguments of the
            model's forward, labels [B, T], ids B integers or strings (None: those that
            `collate_with_sample_ids` put on the batch). The keys above are then not used. This and
            the next two may be given as import paths.
        batch_loss: ``(module, batch) -> [B]``, the samples' mean response losses in nats per
            response token as the module trains on them, differentiable. Default: the module's own
            ``influence_losses(batch)``, if it has that method; else the model's forward on all that
            it accepts of the batch, and our own cross-entropy.
        sanity_samples: samples of the first captured micro-batch that are pushed one by one through
            that path and compared with what was captured; 0: none. See ``docs/guarantees.md``.
        loss_reduction: how the training loss weighs samples: ``"token_mean"`` (Hugging Face's
            default), ``"sample_mean"``, ``"sum"`` (over tokens), or a callable
            ``batch -> weights [B]`` with training loss = sum of weight x sample loss.
        projector: ``"countsketch"``, ``"factored"``, ``"rademacher"`` (dense, slow) or
            ``"identity"`` (no projection).
        sketch_dim: width of the sketch.
        code_dim: width of the code kept for every row.
        code_dtype: ``"float16"``, or ``"int8"`` in half the bytes.
        text_encoder: sentence-transformers model (hub name, folder or object) to co-train.
        co_train: learn the towers while training; else codes are a fixed random projection.
        co_train_every_n_steps: optimizer steps between steps of co-training.
        keep_sketches: also store the float32 sketches.
        optimizer_features: also store the update that the optimizer (Adam, AdamW or SGD) would make
            from each sample's gradient, for ``rank("less")``; see ``capture/updates.py``.
        every_n_train_steps: capture each n-th optimizer step (with all its micro-batches).
        refresh_queries_every_n_steps: optimizer steps per window; None: a window is an epoch.
        overwrite: replace a store that is already in ``dirpath``.
        drift_warn: warn when a window's drift falls below this cosine (once, and at the end).
        seed: of projector, towers and co-training.
        on_error: ``"raise"``, or ``"warn"``: trouble in the valuation (a full disk, an encoder that
            fails) ends the valuation with one warning, and the training goes on.
        segment_rows: rows that a killed run may lose, at most; see ``docs/guarantees.md``.
        segment_seconds: the same in seconds of work.
        keep_states: checkpoints that can be resumed from, the newest ones.
        allow_compiled: value a model that went through ``torch.compile``. The rows are exact, but
            the hooks break the compiled graphs, so that training may round its last bits otherwise.
        prog_bar: show the metrics ``influcoder/...`` (drift, encoder loss, share of the step time,
            rows) in Lightning's progress bar; they are logged either way.

    Checkpoints that the Trainer saves carry the valuation: ``trainer.fit(..., ckpt_path=...)`` goes
    on with it, and drops what was captured after the checkpoint.

    `configuration/influence.py` declares defaults, kinds and limits; a test holds these equal.

    Raises:
        MisconfigurationException: an argument that cannot work; in ``setup``, a Trainer or module
            that cannot be captured.

    Example::

        trainer = Trainer(callbacks=[InfluenceCallback("run/influence", query_dataloader=queries)])
        trainer.fit(module, loader)
        InfluenceStore("run/influence").rank("cosine").top_k(100)
    """

    def __init__(
        self,
        dirpath: str | None = None,
        *,
        query_dataloader: Iterable[Any] | None = None,
        tokenizer: Any = None,
        sample_id_key: str = "sample_id",
        labels_key: str | int = "labels",
        labels_shifted: bool = False,
        read_batch: Callable[..., Any] | str | None = None,
        batch_loss: Callable[..., Any] | str | None = None,
        sanity_samples: int = 2,
        loss_reduction: Literal["token_mean", "sample_mean", "sum"]
        | Callable[..., Any]
        | str = "token_mean",
        projector: Literal["countsketch", "identity", "factored", "rademacher"] = "countsketch",
        sketch_dim: int = 8192,
        code_dim: int = 512,
        code_dtype: Literal["float16", "int8"] = "float16",
        text_encoder: Any = None,
        co_train: bool = True,
        co_train_every_n_steps: int = 10,
        keep_sketches: bool = False,
        optimizer_features: bool = False,
        every_n_train_steps: int = 1,
        refresh_queries_every_n_steps: int | None = None,
        overwrite: bool = False,
        drift_warn: float = 0.5,
        seed: int = 0,
        on_error: Literal["raise", "warn"] = "raise",
        segment_rows: int = 2048,
        segment_seconds: float = 60.0,
        keep_states: int = 3,
        allow_compiled: bool = False,
        prog_bar: bool = False,
    ) -> None:
        given = {**locals()}
        super().__init__()
        self.dirpath = None if dirpath is None else str(dirpath)
        self.query_dataloader = query_dataloader
        self._query_batches: Iterable[Any] | None = None
        self.prog_bar = prog_bar
        self.co_train_every_n_steps = co_train_every_n_steps
        self.every_n_train_steps = every_n_train_steps
        self.refresh_queries_every_n_steps = refresh_queries_every_n_steps
        self.drift_warn, self.on_error = drift_warn, on_error
        try:
            for name in ("read_batch", "batch_loss"):
                given[name] = resolve_function(given[name], name)
            check_arguments(OfCallback, given)
            self.options = Options(**{field.name: given[field.name] for field in fields(Options)})
            self.loss_reduction = resolve_reduction(loss_reduction)
        except ConfigError as error:
            raise MisconfigurationException(str(error)) from error
        if query_dataloader is not None:
            check_queries(query_dataloader, "`query_dataloader`")

    def query_loss(self, pl_module: LightningModule, batch: Any) -> Tensor:
        """Mean response loss [B] of each query in ``batch``, differentiable.

        Override it where queries have another loss than the training; for a model whose inputs or
        losses differ, `batch_loss` serves both. The model is in eval mode.
        """
        assert self._valuation is not None
        return self._valuation.losses(batch)

    # ------------------------------------------------------------------------ life cycle

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be captured, before anything is loaded."""
        refuse_other_trainer(trainer)
        if stage != "fit":
            return
        self._given_up = self._all_gave_up = False
        self._forget_checkpoint()
        refuse_uncapturable(trainer, pl_module)

    @valuing
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the LoRA layers, open the store, attach the hooks; go on where a checkpoint says."""
        self._begun = perf_counter()
        self._boundary, self._captured, self._warned_loss = True, False, False
        self._drift = DriftWarning(self.drift_warn)
        self._step = trainer.global_step
        self._micro: MicroBatch | None = None
        self._gradients: CapturedRows | None = None
        self._queries: RowBatch | None = None
        self._step_rows, self._layers_changed = StepRows(), False
        self._window_start: tuple[int, int] | None = None
        self._check_resume(trainer)
        pointer, self._resume, self._pointer = self._resume, None, None
        folder = self._folder(trainer, pointer)
        self._query_batches = self.query_dataloader
        if self._query_batches is None:
            self._query_batches = hooked_queries(trainer, pl_module)
        for batches in (trainer.train_dataloader, self._query_batches):
            refuse_shared_ids(batches)
        config = {
            "loss_reduction": getattr(self.loss_reduction, "__qualname__", self.loss_reduction),
            "every_n_train_steps": self.every_n_train_steps,
            "co_train_every_n_steps": self.co_train_every_n_steps,
            "refresh_queries_every_n_steps": self.refresh_queries_every_n_steps,
            "precision": str(trainer.precision),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "mode": "training",
            "depends_on": self.depends_on(trainer, pl_module),
        }
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        refuse_closures(optimizer)
        valuation = Valuation(pl_module, folder, self.options, config, pointer, optimizer)
        self._valuation = valuation
        own_loss = type(self).query_loss is not InfluenceCallback.query_loss
        self._check = SanityCheck(valuation, self._query_batches is not None, own_loss)
        self._rate_shares = rate_shares(trainer, valuation.capture.linears)
        start = valuation.restored.get("window_start")
        self._window_start = None if start is None else tuple(start)
        self._epoch_samples = valuation.restored.get("epoch_samples", 0)
        if pointer is None and trainer.global_step:
            rank_zero_warn(
                f"influcoder: training goes on at step {trainer.global_step}, but its checkpoint "
                "holds no valuation: the store begins here."
            )

    @valuing
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch starts a new optimizer step, also after one that a hook cut short."""
        self._boundary, self._micro, self._epoch_samples = True, None, 0
        self._active().cancel()
        self._step_rows.release(self._active().recorder)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Open a window where one starts; get ready for this micro-batch."""
        self._batch_open = True
        self._look_at_layers(trainer)
        if self._boundary and self._window_starts(trainer):
            self._take_queries(trainer, pl_module)
            self._agree(trainer)
            self._open_window(trainer, pl_module)
        if self._boundary:
            self._boundary, self._step = False, trainer.global_step
            self._captured = self._step % self.every_n_train_steps == 0
        self._begin_batch(trainer, pl_module, batch)

    @valuing
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Remember how the loss of this micro-batch was scaled."""
        if self._micro is not None:
            if self._micro.loss is not None:
                refuse_second_pass(trainer.optimizers[0])
            self._active().layers_changed(between_steps=False)
            scale = loss_scale(trainer)
            self._step_rows.begin(scale)
            self._micro.loss_scale = scale / trainer.accumulate_grad_batches
            self._micro.share = 1 / (trainer.accumulate_grad_batches * trainer.world_size)
            self._active().begin_backward(self._micro.unit())
            self._check.before_backward()
            self._micro.loss = float(loss.detach()) / self._micro.loss_scale

    @valuing
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the gradients of this micro-batch, and the learning rate its step will use."""
        if self._micro is not None:
            valuation = self._active()
            with valuation.timed():
                self._gradients = valuation.capture.finish()
                self._rate = mean_rate(trainer, self._rate_shares)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """The next micro-batch starts a new optimizer step."""
        self._boundary = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand the rows on; co-train where the schedule says so."""
        if self._micro is not None:
            self._check.returned = outputs
        self._finish_batch(trainer)
        if self._boundary and not self._given_up and logs_now(trainer):
            pl_module.log_dict(self._metrics(), batch_size=1, prog_bar=self.prog_bar)

    @valuing
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the queries once more, write everything, check that nothing is missing."""
        valuation = self._valuation
        if valuation is None:
            return
        if trainer.checkpoint_callbacks:
            self._save_state(trainer)  # a checkpoint saved after this hook can be resumed from
        drift = valuation.close(
            trainer.global_step, self._query_rows(trainer, pl_module, valuation)
        )
        self._drift.see(drift)
        self._drift.close()
        report_counts(trainer, valuation, drift)
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Keep what was captured, say that it is incomplete, leave no hook behind."""
        valuation = self._valuation
        if valuation is not None:
            self._save_for_exception(trainer)
            valuation.abort(trainer.global_step, f"{type(exception).__name__}: {exception}")
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no hook behind."""
        self._release()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_valuation": None, "_temporary": None, "_micro": None}

    def report(
        self, pool: Any, folder: str | Path | None = None, *, method: str = "fisher"
    ) -> Path:
        """Write the report of the training that has ended; see `write_report`.

        Args:
            pool: the training samples, a file of rows or rows; ids as in the batches.
            folder: to write to; None: the one that the store lies in.
            method: that ranks.

        Raises:
            ConfigError: no training has ended.
        """
        import influcoder_lightning

        if self.dirpath is None or not (Path(self.dirpath) / FILE_NAME).is_file():
            raise ConfigError("there is no store yet: call `report` after `trainer.fit(...)`.")
        store, write = self.dirpath, influcoder_lightning.write_report
        path: Path = Processes().once(lambda: write(store, pool, folder, method=method))
        return path

    # ------------------------------------------------------------------------ parts

    def _folder(self, trainer: Trainer, pointer: Pointer | None) -> Path:
        """Where the store is, the same in every process."""
        base = trainer.log_dir or trainer.default_root_dir
        before = None if pointer is None else pointer.get("folder")
        chosen = self.dirpath or before or str(Path(base) / "influence")
        if getattr(trainer, "fast_dev_run", False):
            self._temporary = tempfile.TemporaryDirectory(prefix="influcoder-")
            chosen = self._temporary.name
            rank_zero_info("fast_dev_run: the influence store is temporary and will be removed.")
        chosen = str(trainer.strategy.broadcast(chosen))
        if self._temporary is None:
            self.dirpath = chosen
        return Path(chosen)

    def _progress(self) -> dict[str, Any]:
        self._step_rows.release(self._active().recorder)  # a checkpoint holds every row before it
        return {"window_start": self._window_start, "epoch_samples": self._epoch_samples}

    @valuing
    def _take_rows(self, trainer: Trainer) -> None:
        if self._micro is not None:
            valuation = self._active()
            with valuation.timed():
                rows = self._hand_on(trainer, valuation, self._micro)
                self._check.compare(valuation, self._micro, rows)
                self._micro = self._gradients = None

    @valuing
    def _end_step(self, trainer: Trainer) -> None:
        """What all processes do together after an optimizer step."""
        valuation = self._active()
        self._check.settle()
        with valuation.timed():
            self._step_rows.end_step(trainer, valuation.recorder)
            valuation.recorder.end_step()
            if trainer.global_step % self.co_train_every_n_steps == 0:
                valuation.co_train()

    def _hand_on(
        self, trainer: Trainer, valuation: Valuation, micro: MicroBatch
    ) -> RowBatch | None:
        recorder = valuation.recorder
        losses = valuation.observer.finish(len(micro.ids))
        recorder.see(micro.ids)
        if self._gradients is None:
            valuation.cancel()
            recorder.keep_out("training_step returned no loss", micro.ids)
            return None
        if not (self._warned_loss or self._check.speaks):
            strict = self.options.optimizer_features
            self._warned_loss = warn_reduction(self.loss_reduction, micro, losses, refuse=strict)
        rows = micro.rows(self._gradients, losses, valuation.texts(micro.batch))
        repeated = micro.beyond(self._n_real)
        recorder.keep_out(PADDING, rows.select(repeated).ids)
        keep = rows.n_tokens > 0
        recorder.keep_out("no response token", rows.select(~keep & ~repeated).ids)
        kept = rows.select(keep & ~repeated)
        self._step_rows.add(trainer, recorder, kept, self._step, self._rate)
        return rows

    def _count_samples(self, trainer: Trainer, batch: Any) -> None:
        """How many rows of this micro-batch come before the sampler's repeats (None: all).

        A row of a packed batch is several samples, but one item of its data set.
        """
        n_real = n_before_padding(trainer.train_dataloader) if trainer.world_size > 1 else None
        self._n_real = None if n_real is None else n_real - self._epoch_samples
        self._epoch_samples += self.options.reader.n_rows(batch)

    def _window_starts(self, trainer: Trainer) -> bool:
        every = self.refresh_queries_every_n_steps
        if self._window_start is None or self._layers_changed:
            return True
        if every is None:
            return bool(trainer.current_epoch != self._window_start[0])
        return bool(trainer.global_step - self._window_start[1] >= every)

    @valuing
    def _look_at_layers(self, trainer: Trainer) -> None:
        valuation = self._active()
        self._layers_changed = valuation.layers_changed(between_steps=self._boundary)
        if self._layers_changed:
            self._rate_shares = rate_shares(trainer, valuation.trained_linears())

    @valuing
    def _take_queries(self, trainer: Trainer, pl_module: LightningModule) -> None:
        valuation = self._active()
        with valuation.timed():
            self._queries = self._query_rows(trainer, pl_module, valuation)

    @valuing
    def _open_window(self, trainer: Trainer, pl_module: LightningModule) -> None:
        valuation = self._active()
        epoch, step = trainer.current_epoch, trainer.global_step
        with valuation.timed():
            drift = valuation.open_window(epoch, step, self._queries)
        self._queries, self._window_start, self._layers_changed = None, (epoch, step), False
        self._drift.see(drift)
        if drift is not None and drift == drift and not trainer.barebones:
            pl_module.log("influcoder/drift", drift, batch_size=1, prog_bar=self.prog_bar)

    @valuing
    def _begin_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        valuation = self._active()
        with valuation.timed():
            self._count_samples(trainer, batch)
            if self._captured:
                self._micro = MicroBatch.of(valuation.reader.read(batch), self.loss_reduction)
                if self._check.due:
                    kept = self._micro.usable(self._n_real)
                    self._check.examine(trainer, pl_module, valuation, self._micro, kept)
                valuation.begin(self._micro.batch)

    def _query_rows(
        self, trainer: Trainer, pl_module: LightningModule, valuation: Valuation
    ) -> RowBatch | None:
        if self._query_batches is None:
            return None
        with trainer.precision_plugin.forward_context():
            return valuation.query_rows(
                self._query_batches,
                lambda batch: self.query_loss(pl_module, batch),
                scale=loss_scale(trainer),
            )

    def _metrics(self) -> dict[str, float]:
        valuation = self._active()
        values = {
            "influcoder/rows_written": float(valuation.n_rows),
            "influcoder/step_time_share": valuation.seconds / (perf_counter() - self._begun),
            "influcoder/encoder_loss": valuation.text_loss,
        }
        return {name: value for name, value in values.items() if value == value}
