"""Tables and charts at the end of a run, read back from what each logger has written."""

import csv
import json
import logging

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from influcoder_lightning import Ranking
from influcoder_lightning.errors import RankingError
from influcoder_lightning.report.findings.comparison import summarise_arms
from influcoder_lightning.report.logged_results import log_comparison, log_ranking

N = 30
RANKING = Ranking([f"s{i}" for i in range(N)], np.linspace(1, -1, N), method="cosine")
ROWS = [{"prompt": f"<b>what|{i}</b>", "response": "so\nso", "task": "ab"[i % 2]} for i in range(N)]
IDS = [f"s{i}" for i in range(N)]
COMPARISON = summarise_arms({"top_k": [1.0, 1.2], "random_k": [1.4, 1.3], "base": [2.0]}, 5, 10, 2)
METRICS = {
    "influcoder/ranking/n": 30,
    "influcoder/ranking/median": 0,
    "influcoder/ranking/best": 1,
    "influcoder/ranking/worst": -1,
    "influcoder/ranking/threshold": 1 - 2 * 4 / 29,
    "influcoder/comparison/top_k": 1.1,
    "influcoder/comparison/random_k": 1.35,
    "influcoder/comparison/base": 2.0,
}


def log_all(logger):
    logger.log_metrics({"loss": 1.0}, 3)
    logger.finalize("success")  # as at the end of a fit
    groups = [row["task"] for row in ROWS]
    log_ranking([logger], RANKING, ROWS, IDS, k=5, groups=groups, shown=4, step=7)
    log_comparison([logger], COMPARISON, step=7)


def test_tensorboard_has_figures_tables_and_charts(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    log_all(logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    for name, value in METRICS.items():
        [event] = events.Scalars(name)
        assert (event.step, event.value) == (7, pytest.approx(value))
    assert set(tags["images"]) == {"influcoder/ranking/scores", "influcoder/comparison/arms"}
    [image] = events.Images("influcoder/ranking/scores")
    assert (image.width, image.height) == (960, 420)
    texts = {
        name.removesuffix("/text_summary"): events.Tensors(name)[0].tensor_proto.string_val[0]
        for name in tags["tensors"]
        if name.endswith("text_summary")
    }
    best = texts["influcoder/ranking/best_samples"].decode()
    assert best.count("\n") == 5  # heading, line, four samples
    assert "&lt;b&gt;what&#124;0&lt;/b&gt;" in best
    assert "| top\\_k |" in texts["influcoder/comparison/arms"].decode()


def test_weights_and_biases_offline_has_tables_and_images(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, project="influcoder", offline=True)
    try:
        log_all(logger)
        summary = dict(logger.experiment.summary)
        for name, value in METRICS.items():
            assert summary[name] == pytest.approx(value)
    finally:
        wandb.finish()
    [path] = tmp_path.rglob("influcoder/ranking/best_samples_*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["rank", "score", "sample", "task", "prompt", "response"]
    assert table["data"][0] == [1, 1.0, "s0", "a", "<b>what|0</b>", "so\nso"]
    assert len(list(tmp_path.rglob("influcoder/ranking/scores_chart_*.png"))) == 1
    assert len(list(tmp_path.rglob("influcoder/comparison/arms_*.table.json"))) == 1


def test_csv_has_the_figures_and_says_what_it_cannot_hold(tmp_path, caplog):
    logger = CSVLogger(tmp_path)
    with caplog.at_level(logging.INFO, "influcoder_lightning.report.logged_results"):
        log_all(logger)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "CSVLogger takes figures only"
    ] * 2
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    found = {k: float(v) for line in lines for k, v in line.items() if k in METRICS and v}
    assert found == pytest.approx(METRICS)
    assert lines[0]["loss"] == "1.0"


class Tables:
    """A logger of somebody else's, with the methods that W&B's has."""

    def __init__(self):
        self.metrics, self.tables, self.images = {}, {}, {}

    def log_metrics(self, metrics, step=None):
        self.metrics |= metrics

    def log_table(self, key, columns, data, step=None):
        self.tables[key] = (columns, data)

    def log_image(self, key, images, step=None):
        self.images[key] = images

    def save(self):
        pass


def test_any_logger_with_the_methods_is_served_and_rows_are_optional():
    logger = Tables()
    log_ranking([logger], Ranking([3, 1, 2], [0.1, np.nan, 0.3]), shown=5)
    assert logger.tables["influcoder/ranking/best_samples"] == (
        ["rank", "score", "sample"],
        [[1, 0.3, "2"], [2, 0.1, "3"]],
    )
    assert logger.metrics["influcoder/ranking/n"] == 2
    [image] = logger.images["influcoder/ranking/scores_chart"]
    assert image.shape[2] == 3
    assert image.dtype == np.uint8
    nothing = Tables()
    log_ranking([nothing], Ranking([1], [np.nan]))
    assert (nothing.metrics, nothing.tables) == ({"influcoder/ranking/n": 0.0}, {})


def test_rows_of_another_pool_are_refused():
    with pytest.raises(RankingError, match="use the pool that was valued"):
        log_ranking([Tables()], RANKING, ROWS[:3], ["a", "b", "c"])
