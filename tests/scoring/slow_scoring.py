"""Scores slowly, so that there is time to kill the process."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np

from influcoder_lightning.scoring.predict import TextScorer
from influcoder_lightning.scoring.run import Scoring
from influcoder_lightning.scoring.sealed_parts import ScoreParts


def main(folder: Path, tower: Path) -> None:
    """Score FOLDER/pool.jsonl into FOLDER/s."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    step = TextScorer.predict_step

    def slow(self, batch, batch_idx):
        time.sleep(0.02)
        return step(self, batch, batch_idx)

    TextScorer.predict_step = slow
    parts = ScoreParts(folder / "s", 600, 20)
    Scoring(str(folder / "pool.jsonl"), tower, np.load(folder / "queries.npy"), parts, 10).run(1)
