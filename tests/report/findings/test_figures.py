import csv
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from influcoder_lightning import Ranking
from influcoder_lightning.errors import DataError, RankingError
from influcoder_lightning.report.findings.comparison import summarise_arms, write_comparison
from influcoder_lightning.report.findings.ranking_curve import plot_ranking

# Two-sided 95 % quantiles of Student's t, from printed tables.
T_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}
LOSSES = {
    "base": [4.8],
    "top_k": [2.51, 2.53, 2.50],
    "random_k": [2.62, 2.60, 2.66],
    "bottom_k": [2.81, 2.79, 2.84],
}


@given(st.data(), st.sampled_from(sorted(T_TABLE)))
def test_interval_is_students_t_over_seeds(data, freedom):
    n = freedom + 1
    values = data.draw(st.lists(st.floats(0.01, 10), min_size=n, max_size=n))
    arm = summarise_arms({"top_k": values}, k=1, steps=1, seeds=n)["arms"]["top_k"]
    mean = sum(values) / n
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / freedom)
    reach = T_TABLE[freedom] * deviation / math.sqrt(n)
    assert arm["eval_loss"] == values
    assert arm["mean"] == pytest.approx(mean)
    assert arm["ci95"] == pytest.approx([mean - reach, mean + reach], rel=1e-3, abs=2e-3 * reach)


def test_base_has_one_value_and_no_interval():
    comparison = summarise_arms(LOSSES, k=200, steps=100, seeds=3)
    assert list(comparison) == ["k", "steps", "seeds", "arms"]
    assert comparison["arms"]["base"] == {"eval_loss": [4.8], "mean": 4.8, "ci95": None}
    one = summarise_arms({"top_k": [2.5]}, k=1, steps=1, seeds=1)
    assert one["arms"]["top_k"]["ci95"] is None


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "no arms"),
        ({"top_k": [1.0, 2.0]}, "'top_k' has 2 losses, expected 3"),
        ({"base": [1.0, 2.0, 3.0]}, "'base' has 3 losses, expected 1"),
        ({"top_k": [1.0, 2.0, math.nan]}, "'top_k' has a loss that is not finite"),
    ],
)
def test_losses_that_do_not_fit(losses, message):
    with pytest.raises(DataError, match=message):
        summarise_arms(losses, k=1, steps=1, seeds=3)


@pytest.mark.parametrize("base", [4.8, 2.9, 2.52])
def test_comparison_files(tmp_path, base):
    comparison = summarise_arms({**LOSSES, "base": [base]}, k=200, steps=100, seeds=3)
    paths = write_comparison(tmp_path / "new", comparison)
    assert [p.name for p in paths] == ["comparison.json", "comparison.csv", "comparison.png"]
    assert json.loads(paths[0].read_text()) == comparison
    with paths[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["arm"] for line in lines] == ["top_k", "random_k", "bottom_k", "base"]
    assert float(lines[0]["mean"]) == comparison["arms"]["top_k"]["mean"]
    assert float(lines[1]["ci95_high"]) == comparison["arms"]["random_k"]["ci95"][1]
    assert [lines[2][f"eval_loss_{i}"] for i in range(3)] == ["2.81", "2.79", "2.84"]
    assert lines[3]["ci95_low"] == lines[3]["eval_loss_1"] == ""
    assert is_drawn(paths[2])


@pytest.mark.parametrize(
    "losses", [{"base": [2.0]}, {"top_k": [2.0]}, {"base": [2.0], "odd $name": [2.0]}]
)
def test_a_comparison_of_little_is_drawn(tmp_path, losses):
    write_comparison(tmp_path, summarise_arms(losses, k=1, steps=1, seeds=1))
    assert is_drawn(tmp_path / "comparison.png")


def is_drawn(path):
    image = imread(path)
    return image.shape[0] > 100 and image.shape[1] > 800 and len(np.unique(image)) > 10


def test_ranking_figure_of_many_samples_is_quick(tmp_path):
    rng = np.random.default_rng(0)
    ranking = Ranking(np.arange(100_000), rng.normal(size=100_000), method="cosine")
    groups = [f"task_{i}" for i in rng.integers(0, 20, size=100_000)]
    start = time.perf_counter()
    plot_ranking(ranking, tmp_path / "ranking.png", groups=groups, highlight=range(500))
    # Far above what it takes (about a second), far below anything quadratic.
    assert time.perf_counter() - start < 60
    assert is_drawn(tmp_path / "ranking.png")


@pytest.mark.parametrize("scores", [[1.0], [0.5, 0.5], [-1, -2, -3], [math.nan, 1, math.inf, 2]])
@pytest.mark.parametrize("grouped", [False, True])
def test_small_and_odd_rankings_are_drawn(tmp_path, scores, grouped):
    ids = [f"id $x^{i}" for i in range(len(scores))]
    path = tmp_path / "made" / "ranking.png"
    plot_ranking(
        Ranking(ids, scores),
        path,
        groups=dict.fromkeys(ids, "a_$_very long\ngroup name that goes on") if grouped else None,
        title="$\\unknown{",
        highlight={"_all": ids},
    )
    assert is_drawn(path)
    assert [p.name for p in path.parent.iterdir()] == ["ranking.png"]


def test_rankings_that_cannot_be_drawn(tmp_path):
    with pytest.raises(RankingError, match="no sample has a finite score"):
        plot_ranking(Ranking([1], [math.nan]), tmp_path / "r.png")
    with pytest.raises(RankingError, match=r"1 ids to highlight.*'7'"):
        plot_ranking(Ranking([1], [1]), tmp_path / "r.png", highlight=[7])
    with pytest.raises(RankingError, match="1 of 1 samples have no group"):
        plot_ranking(Ranking([1], [1]), tmp_path / "r.png", groups={})
    assert not list(tmp_path.iterdir())
