r"""
InfluenceCallback
^^^^^^^^^^^^^^^^^

Values every training sample while a LoRA fine-tuning run goes on, and leaves that run unchanged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from influcoder_lightning.capture.features import causal_lm_losses
from influcoder_lightning.capture.gradients import CapturedRows
from influcoder_lightning.capture.losses import LossReduction, check_reduction
from influcoder_lightning.capture.microbatch import MicroBatch
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.errors import CaptureError, ConfigError
from influcoder_lightning.valuation import Options, Valuation

_REFUSED_STRATEGIES = ("FSDP", "DeepSpeed", "ModelParallel")


class InfluenceCallback(Callback):
    r"""Captures every sample's LoRA gradient during training and writes an influence store.

    Batches must carry sample ids: ``DataLoader(with_sample_ids(dataset), ...)`` or
    ``collate_fn=collate_with_sample_ids(...)``.

    Args:
        dirpath: folder of the store; default ``influence/`` in the Trainer's log directory.
        query_dataloader: batches of query samples, re-iterable and in a fixed order. Without it
            only ``self`` and baselines can rank until `InfluenceStore.add_queries` is called.
        tokenizer: turns token ids back into text for the text tower, unless batches carry
            ``prompt`` and ``response`` texts themselves.
        sample_id_key: key of the ids in a dict batch.
        labels_key: key of the token labels in a dict batch; in a tuple or list batch an index, or
            (any text) the last element.
        loss_reduction: how the training loss weighs samples: ``"token_mean"`` (Hugging Face's
            default), ``"sample_mean"``, ``"sum"`` (over tokens), or a callable
            ``batch -> weights [B]`` with training loss = sum of weight x sample loss.
        projector: ``"countsketch"`` or ``"identity"`` (no projection).
        sketch_dim: width of the sketch.
        code_dim: width of the float16 code kept for every row.
        text_encoder: sentence-transformers model (hub name, folder or object) to co-train.
        co_train: learn the towers while training; else codes are a fixed random projection.
        co_train_every_n_steps: optimizer steps between steps of co-training.
        keep_sketches: also store the float32 sketches.
        every_n_train_steps: capture each n-th optimizer step (with all its micro-batches).
        refresh_queries_every_n_steps: optimizer steps per window; None: a window is an epoch.
        overwrite: replace a store that is already in ``dirpath``.
        drift_warn: warn when a window's drift falls below this cosine.
        seed: of projector, towers and co-training.

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
        loss_reduction: LossReduction = "token_mean",
        projector: str = "countsketch",
        sketch_dim: int = 8192,
        code_dim: int = 512,
        text_encoder: Any = None,
        co_train: bool = True,
        co_train_every_n_steps: int = 10,
        keep_sketches: bool = False,
        every_n_train_steps: int = 1,
        refresh_queries_every_n_steps: int | None = None,
        overwrite: bool = False,
        drift_warn: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dirpath = None if dirpath is None else str(dirpath)
        self.query_dataloader = query_dataloader
        self.loss_reduction = loss_reduction
        self.co_train_every_n_steps = co_train_every_n_steps
        self.every_n_train_steps = every_n_train_steps
        self.refresh_queries_every_n_steps = refresh_queries_every_n_steps
        self.drift_warn = drift_warn
        try:
            self.options = Options(
                tokenizer=tokenizer,
                sample_id_key=sample_id_key,
                labels_key=labels_key,
                projector=projector,
                sketch_dim=sketch_dim,
                code_dim=code_dim,
                text_encoder=text_encoder,
                co_train=co_train,
                keep_sketches=keep_sketches,
                overwrite=overwrite,
                seed=seed,
            )
            check_reduction(loss_reduction)
        except ConfigError as error:
            raise MisconfigurationException(str(error)) from error
        positive = {
            "sketch_dim": sketch_dim,
            "code_dim": code_dim,
            "every_n_train_steps": every_n_train_steps,
            "co_train_every_n_steps": co_train_every_n_steps,
            "refresh_queries_every_n_steps": refresh_queries_every_n_steps or 1,
        }
        for name, value in positive.items():
            if not isinstance(value, int) or value < 1:
                raise MisconfigurationException(
                    f"`{name}` must be a positive integer, got {value!r}."
                )
        if query_dataloader is not None and iter(query_dataloader) is query_dataloader:
            raise MisconfigurationException(
                "`query_dataloader` is an iterator that can be read once; it is read at the start "
                "of every window. Pass a DataLoader or a list of batches."
            )
        self._valuation: Valuation | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def query_loss(self, pl_module: LightningModule, batch: Any) -> Tensor:
        """Mean response loss [B] of each query in ``batch``, differentiable.

        Override it for models whose inputs or losses differ. The model is in eval mode.
        """
        assert self._valuation is not None
        return causal_lm_losses(self._valuation.model, batch, self.options.labels_key)

    # ------------------------------------------------------------------------ life cycle

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be captured, before anything is loaded."""
        if not isinstance(trainer, Trainer):
            raise MisconfigurationException(
                f"`InfluenceCallback` belongs to `lightning.pytorch`, but this Trainer comes from "
                f"`{type(trainer).__module__.split('.')[0]}`. Use `from lightning.pytorch import "
                "Trainer` (the two packages do not mix)."
            )
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "`InfluenceCallback` needs automatic optimization, but "
                f"{type(pl_module).__name__} sets `automatic_optimization=False`: its backward "
                "passes cannot be told apart. Value the data with `extract_features` instead."
            )
        strategy = type(trainer.strategy).__name__
        if trainer.world_size > 1 or strategy.startswith(_REFUSED_STRATEGIES):
            raise MisconfigurationException(
                f"`InfluenceCallback` runs in a single process; {strategy} with "
                f"{trainer.world_size} processes (DDP, FSDP, DeepSpeed) is not supported yet. Use "
                "`Trainer(devices=1)`."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the LoRA layers, open the store, attach the hooks."""
        if getattr(trainer, "fast_dev_run", False):
            self._temporary = tempfile.TemporaryDirectory(prefix="influcoder-")
            folder = Path(self._temporary.name)
            rank_zero_info("fast_dev_run: the influence store is temporary and will be removed.")
        else:
            base = trainer.log_dir or trainer.default_root_dir
            folder = Path(self.dirpath or Path(base) / "influence")
            self.dirpath = str(folder)
        config = {
            "loss_reduction": str(self.loss_reduction),
            "every_n_train_steps": self.every_n_train_steps,
            "co_train_every_n_steps": self.co_train_every_n_steps,
            "refresh_queries_every_n_steps": self.refresh_queries_every_n_steps,
            "precision": str(trainer.precision),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "mode": "training",
        }
        self._valuation = Valuation(pl_module, folder, self.options, config)
        self._rate_shares = _rate_shares(trainer, self._valuation)
        self._begun = perf_counter()
        self._boundary, self._captured, self._warned_loss = True, False, False
        self._step = trainer.global_step
        self._micro: MicroBatch | None = None
        self._gradients: CapturedRows | None = None
        self._window_start: tuple[int, int] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch starts a new optimizer step, also after one that a hook cut short."""
        self._boundary, self._micro = True, None
        self._active().cancel()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Open a window where one starts; get ready for this micro-batch."""
        valuation = self._active()
        with valuation.timed():
            if self._boundary:
                self._boundary = False
                self._step = trainer.global_step
                self._captured = self._step % self.every_n_train_steps == 0
                self._maybe_open_window(trainer, pl_module)
            if self._captured:
                self._micro = MicroBatch.read(
                    batch,
                    sample_id_key=self.options.sample_id_key,
                    labels_key=self.options.labels_key,
                    reduction=self.loss_reduction,
                )
                valuation.begin(self._micro.labels)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Remember how the loss of this micro-batch was scaled."""
        if self._micro is not None:
            self._active().capture.begin_backward()
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = 1.0 if scaler is None else float(scaler.get_scale())
            self._micro.loss_scale = scale / trainer.accumulate_grad_batches
            self._micro.loss = float(loss.detach()) / self._micro.loss_scale

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the gradients of this micro-batch, and the learning rate its step will use."""
        if self._micro is not None:
            valuation = self._active()
            with valuation.timed():
                self._gradients = valuation.capture.finish()
                groups = trainer.optimizers[0].param_groups
                rates = [share * float(groups[i]["lr"]) for i, share in self._rate_shares.items()]
                self._rate = sum(rates)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """The next micro-batch starts a new optimizer step."""
        self._boundary = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand the rows on; co-train where the schedule says so."""
        valuation = self._active()
        with valuation.timed():
            if self._micro is not None:
                self._hand_on(trainer, valuation, self._micro, batch)
                self._micro = self._gradients = None
            if self._boundary and trainer.global_step % self.co_train_every_n_steps == 0:
                valuation.co_train()
        if self._boundary and not trainer.barebones:
            pl_module.log_dict(self._metrics(), batch_size=1, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the queries once more, write everything, check that nothing is missing."""
        valuation = self._valuation
        if valuation is None:
            return
        drift = valuation.close(
            trainer.global_step, self._query_rows(trainer, pl_module, valuation)
        )
        self._warn_drift(drift)
        counts = valuation.recorder.counts
        metrics = {"influcoder/rows_written": float(valuation.recorder.rows_written)}
        if drift is not None and drift == drift:
            metrics["influcoder/drift"] = drift
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        kept_out = "; ".join(f"{c.total()} kept out: {r}" for r, c in counts.kept_out.items())
        message = (
            f"influcoder: {valuation.recorder.rows_written} rows written for {counts.n_seen} "
            f"samples seen{'; ' + kept_out if kept_out else ''}. Store: {valuation.folder}"
        )
        (rank_zero_warn if kept_out else rank_zero_info)(message)
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Keep what was captured, say that it is incomplete, leave no hook behind."""
        valuation = self._valuation
        if valuation is not None:
            valuation.abort(trainer.global_step, f"{type(exception).__name__}: {exception}")
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no hook behind."""
        self._release()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_valuation": None, "_temporary": None}

    # ------------------------------------------------------------------------ parts

    def _active(self) -> Valuation:
        if self._valuation is None:
            raise CaptureError("the valuation of this run has ended; call `trainer.fit` again.")
        return self._valuation

    def _release(self) -> None:
        if self._valuation is not None:
            self._valuation.detach()
            self._valuation = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _hand_on(
        self, trainer: Trainer, valuation: Valuation, micro: MicroBatch, batch: Any
    ) -> None:
        recorder, counts = valuation.recorder, valuation.recorder.counts
        losses = valuation.observer.finish(len(micro.ids))
        counts.seen.update(micro.ids)
        if self._gradients is None:
            valuation.cancel()
            counts.keep_out("training_step returned no loss", micro.ids)
            return
        self._check_reduction(micro, losses)
        rows = micro.rows(self._gradients, losses, valuation.texts(batch, micro.labels))
        keep = rows.n_tokens > 0
        counts.keep_out("no response token", rows.select(~keep).ids)
        recorder.add(rows.select(keep), trainer.current_epoch, self._step, self._rate)

    def _maybe_open_window(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, step = trainer.current_epoch, trainer.global_step
        every = self.refresh_queries_every_n_steps
        if self._window_start is not None:
            elapsed = step - self._window_start[1] >= every if every else False
            if not (elapsed if every else epoch != self._window_start[0]):
                return
        valuation = self._active()
        queries = self._query_rows(trainer, pl_module, valuation)
        drift = valuation.open_window(epoch, step, queries)
        self._window_start = (epoch, step)
        self._warn_drift(drift)
        if drift is not None and drift == drift and not trainer.barebones:
            pl_module.log("influcoder/drift", drift, batch_size=1)

    def _query_rows(
        self, trainer: Trainer, pl_module: LightningModule, valuation: Valuation
    ) -> RowBatch | None:
        if self.query_dataloader is None:
            return None
        with trainer.precision_plugin.forward_context():
            return valuation.query_rows(
                self.query_dataloader, lambda batch: self.query_loss(pl_module, batch)
            )

    def _warn_drift(self, drift: float | None) -> None:
        if drift is not None and drift < self.drift_warn:
            rank_zero_warn(
                f"influcoder: query gradients turned during the last window (mean cosine "
                f"{drift:.2f} < {self.drift_warn}): scores of its rows mix different states of the "
                "adapter. Shorten the windows with `refresh_queries_every_n_steps`."
            )

    def _check_reduction(self, micro: MicroBatch, losses: Tensor) -> None:
        """Warn once if the declared reduction does not reproduce the training loss."""
        expected = micro.expected_loss(losses)
        if self._warned_loss or expected is None or micro.loss is None:
            return
        if abs(micro.loss - expected) > 0.05 * abs(expected) + 1e-6:
            self._warned_loss = True
            rank_zero_warn(
                f"influcoder: `loss_reduction={self.loss_reduction!r}` implies a training loss of "
                f"{expected:.4g}, but the module returned {micro.loss:.4g}. If the loss weighs "
                "samples differently, gradient norms and `tracin` scores will be off; pass the "
                "matching `loss_reduction`."
            )

    def _metrics(self) -> dict[str, float]:
        valuation = self._active()
        values = {
            "influcoder/rows_written": float(valuation.recorder.n_rows),
            "influcoder/step_time_share": valuation.seconds / (perf_counter() - self._begun),
            "influcoder/encoder_loss": valuation.text_loss,
        }
        return {name: value for name, value in values.items() if value == value}


def _rate_shares(trainer: Trainer, valuation: Valuation) -> dict[int, float]:
    """Share of the captured weights in each parameter group of the optimizer."""
    sizes = {id(linear.module.weight): linear.numel for linear in valuation.capture.linears}
    shares: dict[int, float] = {}
    for index, group in enumerate(trainer.optimizers[0].param_groups):
        owned = sum(sizes.get(id(p), 0) for p in group["params"])
        if owned:
            shares[index] = owned / sum(sizes.values())
    if sum(shares.values()) < 1 - 1e-9:
        raise MisconfigurationException(
            "some trainable LoRA weights are not in the optimizer: they have gradients but never "
            "change. Pass all trainable parameters to the optimizer, or freeze those weights."
        )
    return shares
