"""How wide must a code be, and the sketch it is made of? And what does a row weigh on the disk?

    OMP_NUM_THREADS=1 python benchmarks/code_width.py --data DATA --model MODEL --work WORK

Fidelity: a LoRA is trained for an epoch while `InfluenceCallback` keeps every row's uncompressed
gradient. From these, in the order and blocks of that run, `CoTraining` fits gradient towers as it
would have done in it ("callback"), for every width of sketch and code; a second tower sees every
row of the run, and its queries ten times ("hindsight"). The codes are ranked by `cosine` and by
`projected_cosine`, and both are compared, query by query, with the exact cosines: of the run's own
rows (the queries taken at its start) and of held-out samples under the adapter at its end.
Storage: the size of a finished store over its rows. Each part is kept in ``--work``, and the result
holds all that are there. Writes ``benchmarks/results/code_width.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import h5py
import numpy as np
import report
import torch
from fidelity import write_rows
from real_chain import TEMPLATE
from soak import Tokens, Toy
from torch import Tensor
from torch.utils.data import DataLoader

from influcoder_lightning import (
    InfluenceCallback,
    InfluenceStore,
    collate_samples,
    collate_with_sample_ids,
    extract_features,
    load_rows,
    tokenize_rows,
    with_sample_ids,
)
from influcoder_lightning.capture.layers import LoraLinear, find_lora_linears
from influcoder_lightning.encoder.cotraining import FIT_ROWS, CoTraining
from influcoder_lightning.encoder.gradient_tower import GradientTower
from influcoder_lightning.finetune.models import load_model, load_tokenizer
from influcoder_lightning.finetune.training import steps_of_epochs, train
from influcoder_lightning.projection import Projector, build_projector
from influcoder_lightning.studies.fidelity.gradient_methods import QUERY_WEIGHT
from influcoder_lightning.studies.fidelity.gradients import capture_exact, cosines, project
from influcoder_lightning.studies.fidelity.rank_correlation import aggregated_rho, per_query_rho
from influcoder_lightning.studies.fidelity.splits import draw_splits
from influcoder_lightning.valuation.recorder import encoded_block
from influcoder_lightning.valuation.valuation import BUFFER_BYTES

LORA = {"r": 8, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear"}
BATCH, LR, MAX_LENGTH = 16, 1e-3, 192
KINDS = ("fit_query", "fit_pool", "eval_query", "eval_pool")
Parts = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--sketch-dims",
        type=int,
        nargs="+",
        default=[8192, 16384, 32768, 65536, 0],
        help="0: uncompressed gradients",
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--schedules", nargs="+", default=["callback", "hindsight"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pool", type=int, default=1500, help="samples that are trained on")
    parser.add_argument("--queries", type=int, default=100, help="of the run, and held out")
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--rows", type=int, default=20_480, help="of the stores that are weighed")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "code_width.json")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    storage = [
        report.cached(options.work / f"storage_{width}.json", partial(weigh, width, options.rows))
        for width in (128, 512)
    ]
    for seed, dim, schedule in product(options.seeds, options.sketch_dims, options.schedules):
        part = options.work / f"seed_{seed}" / f"part_{dim}_{schedule}.json"
        report.cached(part, partial(cells_of, options, seed, dim, schedule))
    parts = sorted(options.work.glob("seed_*/part_*.json"))
    cells = [cell for part in parts for cell in json.loads(part.read_text())]
    settings = {"pool": options.pool, "queries": options.queries, "held_out": options.held_out}
    settings |= {"lora": LORA, "batch_size": BATCH, "lr": LR}
    settings |= {"max_length": MAX_LENGTH, "precision": "bf16-mixed"}
    result = {"storage": storage, "cells": cells, "table": means(cells), "settings": settings}
    report.write(options.out, result | {"environment": report.environment()})
    for row in result["table"]:
        print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()))


def weigh(code_dim: int, n_rows: int) -> dict[str, Any]:
    """Bytes per row of a finished store with integer ids, and of which columns they are."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="code_width_") as folder:
        pool, queries = (
            DataLoader(with_sample_ids(Tokens(n)), 64, collate_fn=collate_with_sample_ids())
            for n in (n_rows, 8)
        )
        options: dict[str, Any] = {"code_dim": code_dim, "sketch_dim": 1024}
        store = extract_features(
            Toy().model, pool, folder, query_dataloader=queries, show_progress=False, **options
        )
        assert len(store) == n_rows
        columns: dict[str, float] = {}

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and name.startswith("rows/"):
                columns[name] = node.id.get_storage_size() / n_rows

        with h5py.File(store.path) as file:
            file.visititems(visit)
        row = {"code_dim": code_dim, "rows": n_rows}
        return row | {"bytes_per_row": store.path.stat().st_size / n_rows, "columns": columns}


def cells_of(
    options: argparse.Namespace, seed: int, dim: int, schedule: str
) -> list[dict[str, Any]]:
    """The cells of one width of the sketch (0: uncompressed), codes of every width."""
    folder = options.work / f"seed_{seed}"
    linears = prepare(options, seed, folder)
    parts = {kind: np.load(folder / f"{kind}.npy", mmap_mode="r") for kind in KINDS}
    exact = both(parts, None)
    projector = build_projector("countsketch" if dim else "identity", linears, dim, seed)
    n_rows = sum(map(len, parts.values()))
    begun = process_time()
    sketches = {kind: sketched(projector, linears, rows) for kind, rows in parts.items()}
    ms = 1000 * (process_time() - begun) / n_rows
    names = {"seed": seed, "projector": projector.name, "sketch_dim": projector.dim}
    names["sketch_ms"] = ms
    cells = []
    if schedule == "callback":
        plain = {kind: rows.numpy() for kind, rows in sketches.items()}
        none = {"code_dim": 0, "schedule": "none", "method": "cosine"}
        cells.append(names | none | rhos(both(plain, None), exact))
    for width in options.widths:
        tower, fit_ms = fitted(sketches, width, seed, schedule)
        begun = process_time()
        blocks = {k: encoded_block(tower, 0, x, x.norm(dim=1), False) for k, x in sketches.items()}
        encode_ms = 1000 * (process_time() - begun) / n_rows
        codes = {kind: np.asarray(block.code, np.float32) for kind, block in blocks.items()}
        lengths = {kind: np.asarray(block.length) for kind, block in blocks.items()}
        cost: dict[str, Any] = {"code_dim": width, "schedule": schedule}
        cost |= {"code_ms": encode_ms, "tower_ms": fit_ms}
        for method, factors in (("cosine", None), ("projected_cosine", lengths)):
            cost["method"] = method
            cells.append(names | cost | rhos(both(codes, factors), exact))
        print(f"seed {seed}: sketches of {dim}, codes of {width}, {schedule}", flush=True)
    return cells


def prepare(options: argparse.Namespace, seed: int, folder: Path) -> list[LoraLinear]:
    """Train and keep exact gradients in ``folder``, unless they are there; the captured layers."""
    tokenizer = load_tokenizer(options.model)
    model = load_model(options.model, LORA, seed)
    linears = find_lora_linears(model)
    if all((folder / f"{kind}.npy").exists() for kind in KINDS):
        return linears
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_rows(options.data, folder)
    pool, query = (load_rows(folder / f"{name}.jsonl") for name in ("pool", "query"))
    n_pool = {"fit": options.pool, "select": 0, "eval": options.held_out}
    n_query = {"fit": options.queries, "select": 0, "eval": options.queries}
    splits = draw_splits(pool, query, n_pool, n_query, seed)
    datasets = {
        f"{part}_{kind}": tokenize_rows(
            rows[part], tokenizer, TEMPLATE, MAX_LENGTH, list(range(len(rows[part])))
        )
        for kind, rows in (("pool", splits.pool), ("query", splits.query))
        for part in ("fit", "eval")
    }
    pad = tokenizer.pad_token_id
    callback = InfluenceCallback(
        str(folder / "store"),
        query_dataloader=DataLoader(datasets["fit_query"], BATCH, collate_fn=collate_samples(pad)),
        projector="identity",
        keep_sketches=True,
        co_train=False,
        code_dim=8,
        segment_rows=64,
        seed=seed,
    )
    steps = steps_of_epochs(len(datasets["fit_pool"]), 1, BATCH, 1)
    train(
        model, datasets["fit_pool"], steps=steps, seed=seed, batch_size=BATCH, lr=LR,
        precision="bf16-mixed", pad_token_id=pad, callbacks=[callback],
    )  # fmt: skip
    store = InfluenceStore(folder / "store")
    size = sum(linear.numel for linear in linears)
    for kind in ("eval_query", "eval_pool"):
        rows = np.zeros((len(datasets[kind]), size), np.float32)

        def keep(positions: np.ndarray, gradients: Tensor, rows: np.ndarray = rows) -> None:
            rows[positions] = gradients.numpy()

        capture_exact(model, linears, datasets[kind], pad, BATCH, keep)
        np.save(folder / f"{kind}.npy", rows)
    np.save(folder / "fit_query.npy", store.query_sketches(window=0))
    np.save(folder / "fit_pool.npy", store.sketches())
    shutil.rmtree(folder / "store")
    return linears


def sketched(projector: Projector, linears: list[LoraLinear], rows: np.ndarray) -> Tensor:
    """Sketches [n, D] of gradients [n, P], a batch at a time as in capture."""
    blocks = [
        project(projector, linears, torch.from_numpy(np.array(rows[start : start + BATCH])))
        for start in range(0, len(rows), BATCH)
    ]
    return torch.cat(blocks)


def fitted(
    sketches: dict[str, Tensor], width: int, seed: int, schedule: str
) -> tuple[GradientTower, float]:
    """A tower, and CPU milliseconds per row of a merge once the basis is full."""
    queries, rows = sketches["fit_query"], sketches["fit_pool"]
    tower = GradientTower(rows.shape[1], width)
    if schedule == "hindsight":
        tower.fit(queries, QUERY_WEIGHT)
        for start in range(0, len(rows), FIT_ROWS):
            tower.fit(rows[start : start + FIT_ROWS])
        tower.freeze()
    else:
        as_in_the_run(tower, queries, rows, seed)
    spare = GradientTower(rows.shape[1], width)
    spare.restore(tower.state())
    begun = process_time()
    spare.fit(rows[:FIT_ROWS])
    return tower, 1000 * (process_time() - begun) / min(FIT_ROWS, len(rows))


def as_in_the_run(tower: GradientTower, queries: Tensor, rows: Tensor, seed: int) -> None:
    """Feed a tower as `Recorder` and `CoTraining` do, up to its first version."""
    training = CoTraining(tower, text_encoder=None, buffer_bytes=BUFFER_BYTES, seed=seed)
    training.observe_queries(queries)
    for start in range(0, len(rows), BATCH):
        block = rows[start : start + BATCH]
        training.observe(list(range(start, start + len(block))), block, 0, None)
        # As `Recorder.end_step`: wide sketches fill the buffer before the run ends.
        if not tower.versions and start + len(block) >= training.capacity:
            training.publish(required=True)
    if not tower.versions:
        training.publish(required=True)


def both(rows: Parts, factors: Parts | None) -> Parts:
    """Scores [M, N] of the run's own rows and of held-out ones, weighted by both sides' factors."""
    scores = {}
    for name, part in (("own_rows", "fit"), ("held_out", "eval")):
        queries, samples = f"{part}_query", f"{part}_pool"
        scores[name] = cosines(rows[queries], rows[samples])
        if factors is not None:
            scores[name] *= factors[queries][:, None] * factors[samples]
    return scores


def rhos(scores: Parts, exact: Parts) -> dict[str, float]:
    """Rank agreement with the exact cosines, per query and aggregated."""
    result = {}
    for name, truth in exact.items():
        result[f"{name}_per_query"] = per_query_rho(scores[name], truth)
        result[f"{name}_aggregated"] = aggregated_rho(scores[name], truth)
    return result


def means(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells, averaged over seeds, with the spread of the held-out figure."""
    keys = ("projector", "sketch_dim", "code_dim", "schedule", "method")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[key] for key in keys), []).append(cell)
    table = []
    for key, group in groups.items():
        names = [name for name in group[0] if name not in (*keys, "seed")]
        row = dict(zip(keys, key, strict=True)) | {"seeds": len(group)}
        row |= {name: float(np.mean([cell[name] for cell in group])) for name in names}
        spread = np.std([cell["held_out_per_query"] for cell in group])
        table.append(row | {"held_out_per_query_std": float(spread)})
    return table


if __name__ == "__main__":
    main()
