"""Features without training: the rows of a pool from a frozen model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from influcoder_lightning.capture.features import feature_rows
from influcoder_lightning.capture.forward import BatchLoss, SampleLosses
from influcoder_lightning.capture.untouched import untouched
from influcoder_lightning.data.shared_ids import refuse_shared_ids
from influcoder_lightning.devices import moved
from influcoder_lightning.errors import ConfigError, DataError
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.renamed import names_of_files
from influcoder_lightning.valuation.options import Options
from influcoder_lightning.valuation.row_check import check_alone
from influcoder_lightning.valuation.valuation import Valuation

__getattr__ = names_of_files(__name__)


def extract_features(
    model: torch.nn.Module,
    dataloader: Iterable[Any],
    dirpath: str | Path,
    *,
    query_dataloader: Iterable[Any] | None = None,
    co_train_every_n_steps: int = 10,
    query_loss: BatchLoss | None = None,
    show_progress: bool = True,
    **options: Any,
) -> InfluenceStore:
    """The rows of a training run from a frozen model: one window, step 0, learning rate and
    weight 1.

    The model is in eval mode and is left as it was.

    Args:
        model: a PEFT model, or a module that holds one.
        dataloader: batches with sample ids, each read once.
        dirpath: folder of the store.
        query_dataloader: batches of query samples.
        co_train_every_n_steps: batches between steps of co-training.
        query_loss: ``(model, batch) -> [B]`` mean response losses of the queries, and of the pool
            too unless there is a `batch_loss`; default: as `batch_loss`.
        show_progress: show a bar, where stderr is a terminal.
        **options: as for `InfluenceCallback`: tokenizer, sample_id_key, labels_key, labels_shifted,
            read_batch, batch_loss, sanity_samples, projector, sketch_dim, code_dim, code_dtype,
            text_encoder, co_train, keep_sketches, overwrite, seed.

    Raises:
        ConfigError: unknown option, or `optimizer_features`, which needs an optimizer.
        CaptureError, DataError, StoreError: as in training.

    Example::

        store = extract_features(model, loader, "run/frozen", query_dataloader=queries)
        store.rank("cosine").to_frame()
    """
    try:
        settings = Options(**options)
    except TypeError as error:
        raise ConfigError(f"extract_features: {error}") from error
    if settings.optimizer_features:
        raise ConfigError(
            "extract_features: a frozen model has no optimizer, so `optimizer_features` has "
            "nothing to read. Leave it out, or value the pool in a training run."
        )
    for batches in (dataloader, query_dataloader):
        refuse_shared_ids(batches)
    valuation = Valuation(model, Path(dirpath), settings, {"mode": "frozen"})
    recorder = valuation.recorder
    device = next(valuation.model.parameters()).device
    query_losses = valuation.losses
    if query_loss is not None:
        query_losses = SampleLosses(valuation.model, valuation.model, settings.reader, query_loss)
    pool_losses = query_losses if settings.batch_loss is None else valuation.losses
    try:
        queries = None
        if query_dataloader is not None:
            queries = valuation.query_rows(query_dataloader, query_losses)
        valuation.open_window(0, 0, queries)
        total = len(dataloader) if isinstance(dataloader, Sized) else None
        watched = show_progress and sys.stderr.isatty()
        progress = Progress(console=Console(stderr=True), disable=not watched)
        # Without training all of it is the valuation's time.
        with valuation.timed(), untouched(valuation.module), progress:
            bar = progress.add_task("valuating", total=total)
            for index, batch in enumerate(dataloader):
                checked = settings.sanity_samples if index == 0 else 0
                _add_batch(valuation, moved(batch, device), pool_losses, checked)
                recorder.end_step()
                if index % co_train_every_n_steps == 0:
                    valuation.co_train()
                progress.advance(bar)
        if not recorder.segments.totals()[0]:
            raise DataError("the pool is empty: the dataloader gave no batch.")
        valuation.close(0, None)
    except BaseException as error:
        valuation.abort(0, f"{type(error).__name__}: {error}")
        raise
    return InfluenceStore(dirpath)


def _add_batch(valuation: Valuation, batch: Any, losses: SampleLosses, n_checked: int) -> None:
    recorder, read = valuation.recorder, valuation.reader.read(batch)
    ids = read.ids()
    rows = feature_rows(valuation.capture, batch, ids, read.labels, losses)
    check_alone(valuation.capture, losses, read, rows, n_checked)
    rows.texts = valuation.texts(read)
    weight = torch.ones(len(rows), dtype=torch.float64)
    rows.columns = {"weight": weight, "n_prompt_tokens": read.prompt_tokens().cpu()}
    recorder.see(ids)
    keep = rows.n_tokens > 0
    recorder.keep_out("no response token", rows.select(~keep).ids)
    recorder.add(rows.select(keep), epoch=0, step=0, learning_rate=1.0)
