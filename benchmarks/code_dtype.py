"""Codes as float16 or as int8: what do half the bytes cost in rank agreement, LDS and time?

    OMP_NUM_THREADS=1 python benchmarks/code_dtype.py --data DATA --model MODEL --work WORK

One fine-tuning run of 120 real rows for each width, valued with 40 held-out bbh queries; its store
is written again with the same codes as int8, in the way that the callback writes them. Fidelity:
Spearman's rho with the cosines of whole gradients of the same run. LDS: both against the same
models, two seeds each of ``--subsets`` random halves (0: left out); the difference is paired; and,
without any model, how far int8 can move an LDS at most. Bytes and time: a store that repeats the
codes of the run up to ``--rows`` rows; both are ranked in turn.
In the same ``--work`` it goes on where it stopped. Writes ``benchmarks/results/code_dtype.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import report
from lds import SUBSET_SEEDS, retrained
from lds_methods import ranked, uncompressed
from lds_sets import Study, real
from store_integrity import build, copied, ratio, seconds_in_turn

from influcoder_lightning import InfluenceStore
from influcoder_lightning.recipes.valuate import value
from influcoder_lightning.studies.fidelity.rank_correlation import aggregated_rho, per_query_rho
from influcoder_lightning.studies.retraining.lds import (
    lds_table,
    row_correlations,
    seed_agreement,
)
from influcoder_lightning.studies.retraining.subsets import draw_subset, membership
from influcoder_lightning.studies.retraining.truth import Truth

DTYPES = ("float16", "int8")
COSINES, TIMED = ("cosine", "projected_cosine"), ("cosine", "fisher")
METHODS = (*COSINES, "fisher")
PER_SOURCE, VALUATION_SEED, DRAWN = 40, 0, 1000
SHORT = {"train.epochs": 2, "train.max_length": 96}  # both types see the same: little will do
Scores = dict[tuple[int, str, str], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--subsets", type=int, default=12)
    parser.add_argument("--rows", type=int, default=20_480)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "code_dtype.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    study = real(options.data, options.model, options.work, per_source=PER_SOURCE)
    study.keys.update(SHORT)
    _, truth = retrained(study, options)
    paths = {width: stores(study, width) for width in options.widths}
    scores = scores_of(paths, truth)
    exact = uncompressed(study, truth, VALUATION_SEED, None)
    result = {
        "fidelity": fidelity(scores, exact),
        "lds": lds(truth, scores) if options.subsets else [],
        "lds_bound": lds_bound(scores),
        "cost": [
            cost(paths[width]["float16"], options.rows, options.rounds) for width in options.widths
        ],
        "seed_agreement": float(seed_agreement(truth).mean()) if options.subsets else None,
        "settings": {
            "samples": len(truth.sample_ids),
            "queries": len(truth.query_ids),
            "subsets": options.subsets,
            "subset_model_seeds": SUBSET_SEEDS,
            "valuation_seed": VALUATION_SEED,
            **SHORT,
            "rows": options.rows,
            "rounds": options.rounds,
        },
        "environment": report.environment(),
    }
    report.write(options.out, result)
    show(result)


def stores(study: Study, width: int) -> dict[str, Path]:
    """The store of a run with codes of ``width`` numbers, as float16 and as int8."""
    folder = study.work / f"valued_{width}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        value(study.materials(seed=VALUATION_SEED, influence__code_dim=width), folder)
        (folder / "done").touch()
    paths = {"float16": InfluenceStore(folder).path, "int8": folder / "int8.h5"}
    copied(paths["float16"], paths["int8"], checksums=True, code_dtype="int8")
    return paths


def scores_of(paths: dict[int, dict[str, Path]], truth: Truth) -> Scores:
    """[M, N] of each width, method and type."""
    return {
        (width, method, dtype): ranked(InfluenceStore(paths[width][dtype]), truth, method)[0]
        for width, method, dtype in product(paths, METHODS, DTYPES)
    }


def fidelity(scores: Scores, exact: np.ndarray) -> list[dict[str, Any]]:
    """Rank agreement of cosines with those of whole gradients, and of int8 with float16."""
    cells = []
    for (width, method, dtype), found in scores.items():
        cell: dict[str, Any] = {"code_dim": width, "method": method, "code_dtype": dtype}
        against = {"float16": scores[width, method, "float16"]}
        against |= {"exact": exact} if method in COSINES else {}
        for name, truth in against.items():
            cell[f"{name}_per_query"] = per_query_rho(found, truth)
            cell[f"{name}_aggregated"] = aggregated_rho(found, truth)
        cells.append(cell)
    return cells


def lds(truth: Truth, scores: Scores) -> list[dict[str, Any]]:
    """LDS of both types and their difference, with intervals of one bootstrap."""
    names = {key: " ".join(map(str, key)) for key in scores}
    table = lds_table(truth, {names[key]: found for key, found in scores.items()})
    cells = []
    for width, method in dict.fromkeys((width, method) for width, method, _ in scores):
        half, full = (names[width, method, dtype] for dtype in DTYPES)
        mean, low, high = table[half].behind[full]
        cell: dict[str, Any] = {"code_dim": width, "method": method}
        for dtype, score in zip(DTYPES, (table[half], table[full]), strict=True):
            cell[dtype] = {"lds": score.mean, "ci95": list(score.ci95)}
        cells.append(cell | {"int8_minus_float16": {"mean": mean, "ci95": [low, high]}})
    return cells


def lds_bound(scores: Scores) -> list[dict[str, Any]]:
    """How far int8 can move an LDS, whatever the models do: from the predictions alone.

    Spearman's rho is an inner product of unit vectors of ranks, so that for predictions a and b
    that agree at r, and any truth t, ``|rho(a, t) - rho(b, t)| <= sqrt(2 (1 - r))``.
    """
    cells = []
    for width, method in dict.fromkeys((width, method) for width, method, _ in scores):
        half, full = (scores[width, method, dtype] for dtype in DTYPES)
        n = half.shape[1]
        members = membership([draw_subset(n, 0.5, i, 1) for i in range(DRAWN)], n).T.astype(float)
        agreement = np.minimum(row_correlations(half @ members, full @ members), 1)
        cell: dict[str, Any] = {"code_dim": width, "method": method, "subsets": DRAWN}
        cell["agreement_of_predictions"] = float(agreement.mean())
        cells.append(cell | {"bound": float(np.sqrt(2 * (1 - agreement)).mean())})
    return cells


def cost(path: Path, n_rows: int, rounds: int) -> dict[str, Any]:
    """Bytes of a row and ranking time, int8 over float16: a store's codes, up to ``n_rows``."""
    codes = InfluenceStore(path).codes()
    with tempfile.TemporaryDirectory(prefix="code_dtype_") as folder:
        paths = {dtype: Path(folder) / f"{dtype}.h5" for dtype in DTYPES}
        for dtype, made in paths.items():
            build(made, codes, n_rows, dtype, as_text=False)
        seconds = seconds_in_turn(paths, TIMED, rounds)
        sizes = {dtype: made.stat().st_size / n_rows for dtype, made in paths.items()}
    found: dict[str, Any] = {"code_dim": codes.shape[1], "bytes_per_row": sizes}
    for method in TIMED:
        found[method] = ratio(seconds["int8", method], seconds["float16", method])
    return found


def show(result: dict[str, Any]) -> None:
    for name in ("fidelity", "lds", "lds_bound", "cost"):
        for row in result[name]:
            print(name, json.dumps(row))
    print("agreement of two seeds", result["seed_agreement"])


if __name__ == "__main__":
    main()
