"""What a run cost, from what its store says."""

import os

import numpy as np
import pytest

from influcoder_lightning.report.findings.cost import (
    bytes_below,
    find_cost,
    peak_memory,
    plot_stages,
)
from influcoder_lightning.report.press.units import duration, in_bytes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "encoder" / "gradient").mkdir(parents=True)
    (tmp_path / "influence.h5").write_bytes(b"x" * 1000)
    (tmp_path / "encoder" / "gradient" / "tower").write_bytes(b"x" * 300)
    return tmp_path


def test_share_rate_and_bytes(folder):
    attributes = {
        "cost": {
            "run_seconds": 40.0,
            "valuation_seconds": 10.0,
            "closing_seconds": 2.0,
            "processes": 2,
        }
    }
    cost = find_cost(attributes, 100, folder / "influence.h5")
    assert cost.share == 0.25
    assert cost.rows_per_second == 5  # two processes, 20 seconds each
    assert (cost.file_bytes, cost.encoder_bytes, cost.folder_bytes) == (1000, 300, 1300)
    assert cost.bytes_per_row == 10
    assert cost.closing == 2


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        [1, 2],
        "much",
        {"run_seconds": "x", "valuation_seconds": True, "processes": None},
        {"run_seconds": float("nan"), "valuation_seconds": -1.0, "processes": 0},
    ],
)
def test_a_store_that_does_not_know_has_no_figures(folder, found):
    cost = find_cost({} if found is None else {"cost": found}, 0, folder / "influence.h5")
    figures = (cost.seconds, cost.share, cost.closing, cost.processes, cost.rows_per_second)
    assert figures == (None,) * 5
    assert cost.bytes_per_row is None


def test_links_are_not_followed(folder, tmp_path):
    os.symlink(folder / "influence.h5", folder / "encoder" / "link")
    assert bytes_below(folder / "encoder") == 300
    assert bytes_below(folder / "nothing") == 0


def test_this_process_has_had_memory():
    assert peak_memory() > 2**20


def bars(seconds):
    axes = plot_stages(seconds).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    return dict(zip(names, [bar.get_width() for bar in axes.patches], strict=True))


def test_stages_are_bars_and_short_ones_are_one():
    assert bars({"a": 1.0, "b": 99.0}) == {"a": 1.0, "b": 99.0}
    found = bars({"load": 0.1, "train": 50.0, "save": 0.2, "rank": 5.0})
    assert found == {"train": 50.0, "rank": 5.0, "2 short ones": pytest.approx(0.3)}
    many = bars({f"stage {i}": 1.0 + i for i in range(30)})
    assert len(many) == 12
    assert sum(many.values()) == np.arange(31).sum()
    plot_stages({"nothing": 0.0}).draw_without_rendering()


def test_times_and_sizes_for_people():
    assert [duration(s) for s in (0.04, 9.96, 59.7, 3599.6)] == [
        "0.0 s",
        "10 s",
        "1 min 0 s",
        "1 h 0 min",
    ]
    assert [in_bytes(n) for n in (0, 1024, 3 * 2**40)] == ["0 B", "1.0 KiB", "3.0 TiB"]
