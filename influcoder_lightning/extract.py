"""Features without training: a pool from a frozen model, or new queries for an old run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sized
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from rich.progress import Progress

from influcoder_lightning.capture.adapters import adapter_loaded
from influcoder_lightning.capture.batches import ReadBatch, TokenBatch
from influcoder_lightning.capture.diagnosis import check_rows
from influcoder_lightning.capture.features import feature_rows
from influcoder_lightning.capture.forward import BatchLoss, SampleLosses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import find_language_model, find_lora_linears
from influcoder_lightning.capture.queries import query_features
from influcoder_lightning.capture.query_order import QueryOrder
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.capture.suitability import refuse_unsuitable
from influcoder_lightning.capture.untouched import untouched
from influcoder_lightning.data.shared_ids import refuse_shared_ids
from influcoder_lightning.errors import ConfigError, DataError, StoreError
from influcoder_lightning.projection import build_projector
from influcoder_lightning.recorder import encoded_block
from influcoder_lightning.store.reader import InfluenceStore
from influcoder_lightning.store.writer import StoreWriter
from influcoder_lightning.valuation import END, Options, Valuation


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
                _add_batch(valuation, move_data_to_device(batch, device), pool_losses, checked)
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


def add_queries(
    store: InfluenceStore,
    model: torch.nn.Module,
    dataloader: Iterable[Any],
    *,
    query_loss: BatchLoss | None = None,
    batch_loss: BatchLoss | None = None,
    read_batch: ReadBatch | None = None,
    sanity_samples: int = 2,
    tokenizer: Any = None,
) -> list[int | str]:
    """Value new queries in every window of a store, with the adapter each window started with.

    Args:
        store: a finished store.
        model: the base model with a LoRA of the same settings; its weights are put back.
        dataloader: batches of query samples, re-iterable, with ids that the store does not have.
        query_loss: as for `extract_features`.
        batch_loss: as for `InfluenceCallback`, where the run had one.
        read_batch: as for `InfluenceCallback`, where the queries' batches need it.
        sanity_samples: samples of the first batch that are computed one by one and compared with
            what is going to be stored; 0: none.
        tokenizer: to keep the queries' text, unless batches carry it.

    Returns:
        The ids of the new queries.

    Raises:
        DataError: an id is already there, or of another kind.
        StoreError: the model's LoRA is not that of the run.
        CaptureError: samples alone have other gradients than in their batch.
    """
    language_model = find_language_model(model)
    refuse_unsuitable(language_model)
    options = Options(
        **{k: v for k, v in store.attributes["config"].items() if k in Options.__annotations__}
        | {"tokenizer": tokenizer, "text_encoder": None, "overwrite": False}
        | {"read_batch": read_batch, "batch_loss": batch_loss, "sanity_samples": sanity_samples}
    )
    linears = find_lora_linears(language_model)
    names = [linear.name for linear in linears]
    if names != store.layers["name"].tolist():
        raise StoreError(
            "the model's LoRA layers are not those of the run: "
            f"{sorted(set(names) ^ set(store.layers['name']))[:4]} differ. Use the run's settings: "
            f"{store.attributes['lora']}."
        )
    projector = build_projector(options.projector, linears, options.sketch_dim, options.seed)
    made_by = store.attributes["projector"].get("version", 1)
    if made_by != projector.version:
        raise StoreError(
            f"{store.path} was made with version {made_by} of the projector "
            f"{projector.name!r}, this release has {projector.version}: new queries could not be "
            "compared. Add them with the release that made the store, or value again."
        )
    capture = GradientCapture(linears, projector, model=language_model)
    owner = model if query_loss is None else language_model
    losses = SampleLosses(owner, language_model, options.reader, query_loss or batch_loss)
    takes = _query_takes(store, model, capture, dataloader, losses, options)
    known = set(map(str, store.query_ids)) if len(store.query_ids) else set()
    repeated = [i for i in takes[0][2].ids if str(i) in known]
    if repeated:
        raise DataError(f"queries with these ids are already in the store: {repeated[:5]}.")
    _append_takes(store, takes)
    return list(takes[0][2].ids)


def _query_takes(
    store: InfluenceStore,
    model: Any,
    capture: GradientCapture,
    dataloader: Iterable[Any],
    losses: SampleLosses,
    options: Options,
) -> list[tuple[int, int, RowBatch, int]]:
    windows = store.windows
    last = int(windows["window"].iloc[-1])
    frozen = store.attributes["config"].get("mode") == "frozen"
    plan = [(int(w), 0, f"window_{int(w):05d}") for w in windows["window"]]
    if not frozen:
        plan.append((last, 1, END))
    versions = dict(zip(windows["window"], windows["tower_version"], strict=True))
    takes: list[tuple[int, int, RowBatch, int]] = []
    order = QueryOrder()
    capture.attach()
    try:
        for window, at_end, folder in plan:
            n = 0 if takes else options.sanity_samples
            with adapter_loaded(losses.model, store.folder / "adapters" / folder):
                rows = query_features(
                    capture,
                    model,
                    dataloader,
                    losses,
                    reader=options.reader,
                    tokenizer=options.tokenizer,
                    first=partial(_check, capture, losses, n=n),
                )
            takes.append((window, at_end, order.aligned(rows), int(versions[window])))
    finally:
        capture.detach()
    return takes


def _append_takes(store: InfluenceStore, takes: list[tuple[int, int, RowBatch, int]]) -> None:
    start = len(store.query_ids)
    texts, known_texts = takes[0][2].texts, store.query_texts()
    with StoreWriter.extended(store.path) as writer:
        if texts is not None and (start == 0 or known_texts is not None):
            writer.append_query_texts(texts)
        for window, at_end, rows, version in takes:
            tower = store.gradient_tower(version)
            columns = {
                "query": list(range(start, start + len(rows))),
                "window": window,
                "at_end": at_end,
                "n_tokens": rows.n_tokens.numpy(),
                "loss": rows.loss.numpy(),
                "tower_version": version,
            }
            _warn_uncovered(tower.retained(rows.sketch, -1))
            feature = encoded_block(tower, -1, rows.sketch, rows.norm, keep_sketches=True)
            writer.append("queries", rows.ids, columns, feature)


def _warn_uncovered(share: float) -> None:
    if share < 0.5:
        warnings.warn(
            f"the run's code space keeps {share:.0%} of the new queries' gradient energy (it was "
            "learned without them). The methods fisher, relatif and projected_cosine (rank.method) "
            "account for that; with others, compare scores within a query, not between queries.",
            stacklevel=2,
        )


def _add_batch(valuation: Valuation, batch: Any, losses: SampleLosses, n_checked: int) -> None:
    recorder, read = valuation.recorder, valuation.reader.read(batch)
    ids = read.ids()
    rows = feature_rows(valuation.capture, batch, ids, read.labels, losses)
    _check(valuation.capture, losses, read, rows, n_checked)
    rows.texts = valuation.texts(read)
    rows.weight = torch.ones(len(rows), dtype=torch.float64)
    recorder.see(ids)
    keep = rows.n_tokens > 0
    recorder.keep_out("no response token", rows.select(~keep).ids)
    recorder.add(rows.select(keep), epoch=0, step=0, learning_rate=1.0)


def _check(
    capture: GradientCapture, losses: SampleLosses, batch: TokenBatch, rows: RowBatch, n: int
) -> None:
    """Hold ``n`` samples by themselves against the rows of their batch; see `check_rows`."""
    if n:
        with isolate_rng():
            line = check_rows(capture, losses, batch, rows, n)
        rank_zero_info(f"influcoder: self-check: {line}")
