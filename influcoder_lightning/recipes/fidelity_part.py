"""One seed and one state of the adapter: everything measured, as one JSON-able result."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from influcoder_lightning.callback.influence_callback import InfluenceCallback
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.data.encoders import template_called
from influcoder_lightning.data.rows import Row
from influcoder_lightning.data.tokenization import tokenize_rows
from influcoder_lightning.encoder.distillation import DistillationSettings
from influcoder_lightning.finetune.training import steps_of_epochs, train
from influcoder_lightning.run.base_model import lora_model
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.progress import ShowSteps
from influcoder_lightning.run.settings import plain
from influcoder_lightning.run.stages import stage
from influcoder_lightning.studies.fidelity import (
    cascades,
    forward_methods,
    gradient_methods,
    text_methods,
)
from influcoder_lightning.studies.fidelity.data import FitGradients, StudyData
from influcoder_lightning.studies.fidelity.gradients import STORED_SCALE, capture_exact, cosines
from influcoder_lightning.studies.fidelity.method_rows import Board
from influcoder_lightning.studies.fidelity.splits import draw_splits
from influcoder_lightning.studies.fidelity.states import AdamMoments, KeepMoments, no_moments

log = logging.getLogger(__name__)


def run_part(
    materials: Materials, pool: list[Row], query: list[Row], seed: int, state: str, work: Path
) -> dict[str, Any]:
    """Measure every method.

    Args:
        materials: configuration and tokenizer.
        pool: rows to draw samples from.
        query: rows to draw queries from.
        seed: of splits, LoRA, order and projections.
        state: "fresh" or "warm".
        work: scratch folder; emptied afterwards.

    Returns:
        ``rows`` of the table, ``curve``, ``cascade``, ``confidence``, ``epochs`` and ``exact``.
    """
    cfg = materials.cfg.fidelity
    splits = draw_splits(pool, query, plain(cfg.n_pool), plain(cfg.n_query), seed)
    texts = {f"{part}_pool": rows for part, rows in splits.pool.items()}
    texts |= {f"{part}_query": rows for part, rows in splits.query.items()}
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        data = _prepare(materials, texts, seed, state, work)
        with stage("measuring all methods"):
            return _measure(data, materials)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _prepare(
    materials: Materials, texts: dict[str, list[Row]], seed: int, state: str, work: Path
) -> StudyData:
    cfg = materials.cfg
    template = template_called(cfg.model.template, materials.tokenizer)
    datasets = {
        name: tokenize_rows(
            rows, materials.tokenizer, template, cfg.train.max_length, list(range(len(rows)))
        )
        for name, rows in texts.items()
    }
    model = lora_model(cfg, seed)
    linears = find_lora_linears(model)
    size = sum(linear.numel for linear in linears)
    moments, store = no_moments(size), None
    if state == "warm":
        moments, store = _warm_up(materials, model, datasets, seed, work)
    pad, batch_size = materials.tokenizer.pad_token_id, int(cfg.train.batch_size)
    exact: dict[str, np.ndarray] = {}
    gradient_ms = 0.0
    for name in ("eval_query", "eval_pool", "select_query", "select_pool"):
        rows = np.zeros((len(texts[name]), size), np.float32)

        def keep(positions: np.ndarray, gradients: Tensor, rows: np.ndarray = rows) -> None:
            rows[positions] = gradients.numpy()

        ms = capture_exact(model, linears, datasets[name], pad, batch_size, keep)
        gradient_ms = ms if name == "eval_pool" else gradient_ms
        exact[name] = rows
    fit = _fit_gradients(model, linears, texts, datasets, pad, batch_size, size, work)
    board = Board(cosines(exact["eval_query"], exact["eval_pool"]))
    return StudyData(
        board, model, materials.tokenizer, linears, texts, datasets, exact, fit, gradient_ms,
        moments, store, seed,
    )  # fmt: skip


def _warm_up(
    materials: Materials, model: Any, datasets: Mapping[str, Any], seed: int, work: Path
) -> tuple[AdamMoments, Path | None]:
    """One epoch over the pool to learn from; the towers are co-trained on the way."""
    cfg, pool = materials.cfg, datasets["fit_pool"]
    steps = steps_of_epochs(len(pool), cfg.train.epochs, cfg.train.batch_size, cfg.train.accumulate)
    moments = KeepMoments(find_lora_linears(model))
    callbacks: list[Any] = [moments]
    store = None
    if cfg.fidelity.co_train:
        store = work / "influence"
        callbacks.append(
            InfluenceCallback(
                str(store),
                query_dataloader=materials.loader(datasets["fit_query"]),
                tokenizer=materials.tokenizer,
                seed=seed,
                **(plain(cfg.influence) | {"text_encoder": None, "co_train": True}),
            )
        )
    with stage("warming up", steps, "steps") as done:
        options = materials.training_options(alone=True)
        train(
            model, pool, steps=steps, seed=seed, callbacks=[ShowSteps(done), *callbacks], **options
        )
        done.result = f"{steps:,} steps on {len(pool):,} samples"
    assert moments.moments is not None
    return moments.moments, store


def _fit_gradients(
    model: Any,
    linears: Any,
    texts: Mapping[str, list[Row]],
    datasets: Mapping[str, Any],
    pad: int,
    batch_size: int,
    size: int,
    work: Path,
) -> FitGradients:
    n_query, n_pool = len(texts["fit_query"]), len(texts["fit_pool"])
    shape = (n_query + n_pool, size)
    stored = np.lib.format.open_memmap(work / "fit.npy", "w+", np.float16, shape)
    with stage("exact gradients", n_query + n_pool, "samples") as done:
        for name, offset in (("fit_query", 0), ("fit_pool", n_query)):

            def keep(positions: np.ndarray, gradients: Tensor, offset: int = offset) -> None:
                lengths = gradients.norm(dim=1, keepdim=True).clamp_min(1e-12)
                stored[offset + positions] = (gradients / lengths * STORED_SCALE).half().numpy()

            def progress(n: int, offset: int = offset) -> None:
                done(offset + n)

            capture_exact(model, linears, datasets[name], pad, batch_size, keep, progress)
        done.result = f"of {n_query + n_pool:,} samples to learn from"
    return FitGradients(stored, n_query)


def _measure(data: StudyData, materials: Materials) -> dict[str, Any]:
    cfg = materials.cfg
    settings = cfg.fidelity
    text_methods.baselines(data, int(cfg.train.batch_size))
    gradient_methods.features(data, int(cfg.influence.sketch_dim))
    gradient_methods.co_trained_tower(data)
    late_ms = {
        n: forward_methods.late_ms(data, n, int(cfg.train.batch_size))
        for n in settings.forward_blocks
    }
    stream = gradient_methods.TowerStream(data)
    n_pool, n_query = len(data.texts["fit_pool"]), data.fit.n_query
    sizes = sorted({int(n) for n in settings.curve if n < n_pool} | {n_pool})
    source = cfg.influence.text_encoder
    distil = DistillationSettings(**plain(settings.distil))
    result: dict[str, Any] = {"curve": (curve := list[dict[str, Any]]())}
    for n in sizes:
        asked = n_query if n == n_pool else max(1, round(n_query * n / n_pool))
        codes = stream.codes(asked, n)
        rows = np.array([*range(asked), *range(n_query, n_query + n)])
        texts = [data.fit_texts[i] for i in rows]
        last = n == n_pool
        board = data.board if last else Board(data.board.exact, quiet=True)
        data.board, kept = board, data.board
        gradient_methods.gradient_tower(data, codes)
        scores, confidence, ms = text_methods.text_tower(data, texts, codes)
        width = codes.fit.shape[1]
        board.add("text tower", "text", scores, ms=ms, n_bytes=2 * width, n_fit=len(rows))
        for blocks in settings.forward_blocks:
            guessed, direct, own = forward_methods.forward_scores(data, rows, texts, codes, blocks)
            name = f"last {blocks} block{'s' if blocks > 1 else ''}"
            cost = {"ms": late_ms[blocks] + own, "n_fit": len(rows), "n_bytes": 2 * width}
            board.add(f"forward tower, {name}", "forward", guessed, **cost)
            if last:
                late = forward_methods.late_columns(data, blocks)
                cost = {"ms": late_ms[blocks], "n_fit": 0, "n_bytes": 4 * (data.size - late.start)}
                board.add(f"gradient of the {name} alone", "feature", direct, **cost)
        if last:
            result["confidence"] = cascades.by_confidence(scores, confidence, board.exact)
            result["cascade"] = cascades.cascade(
                scores, confidence, board.exact, list(settings.cascade), data.seed
            )
            if source is not None:
                text_methods.sentence_part(data, codes, source)
        if source is not None and (last or settings.distil_curve):
            epochs = text_methods.published_objective(data, n, source, distil)
            best = max(epochs, key=lambda epoch: epoch["select_per_query"])
            curve.append({"name": "published objective", "n_pool": n, **_rhos(best)})
            result["epochs"] = epochs
        curve += [
            {"name": row["name"], "n_pool": n, **_rhos(row)}
            for row in board.rows
            if row["kind"] in ("code", "text", "forward")
            and row["n_fit"] == len(rows)
            and "objective" not in row["name"]
        ]
        data.board = kept if not last else board
    result["rows"] = data.board.rows
    result["exact"] = data.board.exact.astype(float).round(7).tolist()
    return result


def _rhos(row: Mapping[str, Any]) -> dict[str, float]:
    return {"per_query": row["per_query"], "aggregated": row["aggregated"]}
