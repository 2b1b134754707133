"""Drift: which windows are low, what is advised, and the chart."""

import numpy as np
import pandas as pd
import pytest

from influcoder_lightning.report.findings.drift import SHOWN, find_drift, plot_drift


def windows(drift, rows=None, length=10):
    n = len(drift)
    return pd.DataFrame(
        {
            "window": range(n),
            "epoch": 0,
            "start_step": np.arange(n) * length,
            "end_step": (np.arange(n) + 1) * length,
            "tower_version": 0,
            "drift": np.array(drift, dtype=np.float32),
            "n_rows": rows or [8] * n,
        }
    )


def test_without_queries_there_is_no_drift():
    assert find_drift(windows([np.nan, np.nan])) is None
    assert find_drift(windows([])) is None


def test_means_are_over_rows():
    found = find_drift(windows([0.2, 0.8, np.nan], rows=[30, 10, 5]))
    assert found.mean == pytest.approx(0.35)
    assert (found.low, found.rows_low) == (1, 0.75)
    columns, lines = found.table()
    assert lines[0] == [0, 0, 10, 30, pytest.approx(0.2), 0]
    assert len(lines) == 2
    assert len(columns) == len(lines[0])


def test_low_drift_is_told_with_what_to_do():
    assert "current when it was seen" in find_drift(windows([0.5, 0.9])).advice()
    several = find_drift(windows([0.1, 0.9])).advice()
    assert "refresh_queries_every_n_steps, now 10" in several
    assert "for instance 25" in find_drift(windows([0.1], length=100)).advice()


def test_of_many_windows_the_table_has_the_lowest():
    drift = np.linspace(1, -1, 100)
    _, lines = find_drift(windows(drift)).table()
    assert [line[0] for line in lines] == list(range(100 - SHOWN, 100))


@pytest.mark.parametrize("drift", [[0.3], [0.9, -0.4, 0.6], np.linspace(-1, 1, 300).tolist()])
def test_the_chart_shows_every_window_and_the_line(drift):
    axes = plot_drift(find_drift(windows(drift))).axes[0]
    if len(drift) < 300:
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(drift)
    else:
        assert len(axes.lines[0].get_ydata()) == 300
    assert any("below 0.5" in text.get_text() for text in axes.texts)
    low, high = axes.get_ylim()
    assert low < min(drift)
    assert high > 1


def test_a_run_of_one_step_can_be_drawn():
    plot_drift(find_drift(windows([0.7], length=0)))
