"""New queries for a finished store, valued in every window with the adapter it started with."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from typing import Any

import torch

from influcoder_lightning.capture.adapters import adapter_loaded
from influcoder_lightning.capture.batches import ReadBatch
from influcoder_lightning.capture.forward import BatchLoss, SampleLosses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import find_language_model, find_lora_linears
from influcoder_lightning.capture.queries import query_features
from influcoder_lightning.capture.query_order import QueryOrder
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.capture.suitability import refuse_unsuitable
from influcoder_lightning.encoder.gradient_tower import TOWERS, load_version
from influcoder_lightning.errors import DataError, StoreError
from influcoder_lightning.projection import build_projector
from influcoder_lightning.store.store_file import StoreFile
from influcoder_lightning.store.writer import StoreWriter
from influcoder_lightning.valuation.options import Options
from influcoder_lightning.valuation.recorder import encoded_block
from influcoder_lightning.valuation.row_check import check_alone
from influcoder_lightning.valuation.valuation import END


def add_queries(
    store: StoreFile,
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
        store: a finished store; `InfluenceStore.add_queries` is this function.
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
    names = {field.name for field in fields(Options)}
    options = Options(
        **{k: v for k, v in store.attributes["config"].items() if k in names}
        | {"tokenizer": tokenizer, "text_encoder": None, "overwrite": False}
        | {"read_batch": read_batch, "batch_loss": batch_loss, "sanity_samples": sanity_samples}
    )
    linears = find_lora_linears(language_model)
    layers = [linear.name for linear in linears]
    if layers != store.layers["name"].tolist():
        raise StoreError(
            "the model's LoRA layers are not those of the run: "
            f"{sorted(set(layers) ^ set(store.layers['name']))[:4]} differ. Use the run's "
            f"settings: {store.attributes['lora']}."
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
    store: StoreFile,
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
                    first=partial(check_alone, capture, losses, n=n),
                )
            takes.append((window, at_end, order.aligned(rows), int(versions[window])))
    finally:
        capture.detach()
    return takes


def _append_takes(store: StoreFile, takes: list[tuple[int, int, RowBatch, int]]) -> None:
    start = len(store.query_ids)
    texts, known_texts = takes[0][2].texts, store.query_texts()
    with StoreWriter.extended(store.path) as writer:
        if texts is not None and (start == 0 or known_texts is not None):
            writer.append_query_texts(texts)
        for window, at_end, rows, version in takes:
            tower = load_version(store.folder / TOWERS, version)
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
