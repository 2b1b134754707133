"""How often to take the queries' features, which epochs count, and when a frozen pass is enough.

    python benchmarks/lds_drift.py --data DATA --model MODEL --work FOLDER

FOLDER is one in which ``lds.py`` has trained the subset models. One fine-tuning run takes the
queries' features at every step; longer windows are read out of it, since the rows stay the same.
Prints tables and writes ``benchmarks/results/lds_drift.json``.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import report
from lds import retrained
from lds_sets import Study, real

from influcoder_lightning import InfluenceStore
from influcoder_lightning.recipes.valuate import value
from influcoder_lightning.studies.retraining.lds import row_correlations, seed_agreement
from influcoder_lightning.studies.retraining.truth import Truth

WINDOWS = (1, 2, 5, 10, 20, 40, 80)
DAMPING = 0.1
SEED = 0


class Features:
    """Unit gradients within the code space of one run: rows, and queries at every step.

    Args:
        store: of a run with windows of one step.
        truth: gives the order of samples and queries.
    """

    def __init__(self, store: InfluenceStore, truth: Truth) -> None:
        records = store.records()
        if records.tower_version.nunique() > 1:
            raise SystemExit("several tower versions: the windows of this run do not compare")
        place = {str(name): i for i, name in enumerate(truth.sample_ids)}
        self.sample = np.array([place[str(name)] for name in records.sample_id])
        self.step = records.step.to_numpy()
        self.epoch = records.epoch.to_numpy()
        lengths = records.code_length.to_numpy()[:, None]
        self.rows = store.codes().astype(np.float64) * lengths
        order = np.argsort([str(name) for name in store.query_ids], kind="stable")
        wanted = np.argsort(np.argsort([str(name) for name in truth.query_ids], kind="stable"))
        takes = [(window, False) for window in store.windows.window] + [(None, True)]
        self.queries = np.stack(
            [
                store.query_codes(window, end=end).astype(np.float64)[order][wanted]
                * store.query_records(window, end=end).code_length.to_numpy()[order][wanted, None]
                for window, end in takes
            ]
        )
        self.n_steps, self.n_samples = len(takes) - 1, len(place)

    def summed(
        self, length: int, ends: tuple[int, ...], fisher: bool, keep: np.ndarray | None = None
    ) -> np.ndarray:
        """[M, N] sum over a sample's rows of cosines with the queries at these ends of windows."""
        rows, keep = self.rows, np.ones(len(self.step), bool) if keep is None else keep
        start = self.step // length * length
        takes = [np.minimum(start + end * length, self.n_steps) for end in ends]
        if fisher:
            covariance = rows.T @ rows / len(rows)
            largest = np.linalg.eigvalsh(covariance)[-1]
            solved = np.linalg.inv(covariance / largest + DAMPING * np.eye(len(covariance)))
            rows = rows @ solved
        else:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        total = np.zeros((self.queries.shape[1], self.n_samples))
        for take in takes:
            for at in np.unique(take):
                inside = np.flatnonzero((take == at) & keep)
                queries = self.queries[at]
                if not fisher:
                    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
                np.add.at(total.T, self.sample[inside], (queries @ rows[inside].T).T)
        return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--subsets", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "lds_drift.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    study = real(options.data, options.model, options.work)
    _, truth = retrained(study, options)
    features = Features(valued(study, "every_step", 1), truth)
    target = truth.helpfulness

    def lds(scores: np.ndarray) -> float:
        return float(row_correlations(truth.predictions(scores), target).mean())

    last = frozen(study, truth, study.work / "every_step" / "influence" / "adapters" / "final")
    fresh = frozen(study, truth, None)
    per_step = study.materials().cfg.train.batch_size
    n_epoch = -(-features.n_samples // per_step)
    result = {
        "seed_agreement": float(seed_agreement(truth).mean()),
        "windows": [
            window_line(features, lds, last, length, len(truth.query_ids) / (length * per_step))
            for length in WINDOWS
        ],
        "epochs": [
            {
                "rows": name,
                "cosine": lds(features.summed(n_epoch, (0,), False, keep)),
                "fisher": lds(features.summed(n_epoch, (0, 1), True, keep)),
            }
            for name, keep in row_sets(features)
        ],
        "frozen": {"at the end of training": lds(last), "fresh adapter": lds(fresh)},
        "settings": {"subsets": options.subsets, "valuation_seed": SEED, "damping": DAMPING},
        "environment": report.environment(),
    }
    report.write(options.out, result)
    show(result)


def valued(study: Study, name: str, window: int) -> InfluenceStore:
    """One run of the product with short windows, kept in the work folder."""
    folder = study.work / name
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        value(study.materials(seed=SEED, influence__refresh_queries_every_n_steps=window), folder)
        (folder / "done").touch()
    return InfluenceStore(folder)


def frozen(study: Study, truth: Truth, adapter: Path | None) -> np.ndarray:
    """[M, N] `cosine` of a pass over the pool without training."""
    folder = study.work / ("frozen_end" if adapter else "frozen_fresh")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        keys: dict[str, Any] = {"mode": "frozen", "seed": SEED}
        if adapter:
            keys["model__adapter"] = str(adapter)
        value(study.materials(**keys), folder)
        (folder / "done").touch()
    return truth.scores_of(InfluenceStore(folder).rank("cosine"))


def window_line(
    features: Features,
    lds: Callable[[np.ndarray], float],
    frozen_end: np.ndarray,
    length: int,
    cost: float,
) -> dict[str, Any]:
    """LDS, agreement with a frozen pass at the end, and cost of one window length."""
    start = features.summed(length, (0,), False)
    ends = features.queries[:-1:length], features.queries[length::length]
    drift = [float(np.mean(np.sum(unit(a) * unit(b), axis=1))) for a, b in zip(*ends, strict=False)]
    return {
        "steps": length,
        "cosine, start": lds(start),
        "cosine, both ends": lds(features.summed(length, (0, 1), False)),
        "fisher, start": lds(features.summed(length, (0,), True)),
        "fisher, both ends": lds(features.summed(length, (0, 1), True)),
        "agreement_with_frozen_end": float(row_correlations(start, frozen_end).mean()),
        "drift_mean": float(np.mean(drift)),
        "drift_first": drift[0],
        "queries_per_training_sample": cost,
    }


def row_sets(features: Features) -> list[tuple[str, np.ndarray]]:
    """Rows of each epoch alone, and of all but the first."""
    sets = [(f"epoch {e}", features.epoch == e) for e in np.unique(features.epoch).tolist()]
    return [*sets, ("all but epoch 0", features.epoch > 0), ("all", features.epoch >= 0)]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def show(result: dict[str, Any]) -> None:
    print(f"agreement of two seeds {result['seed_agreement']:.3f}")
    for name in ("windows", "epochs"):
        for line in result[name]:
            cells = (
                f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()
            )
            print("  ".join(cells))
    for name, score in result["frozen"].items():
        print(f"frozen, {name}: {score:.3f}")


if __name__ == "__main__":
    main()
