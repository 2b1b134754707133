"""Stages: their seconds add up, their lines tell what came out, and runs do not mix."""

from __future__ import annotations

import io
import logging
from itertools import count

import pytest

from influcoder_lightning.report.press.units import duration
from influcoder_lightning.run import stages
from influcoder_lightning.run.progress import ShowSteps, newest_metrics
from influcoder_lightning.run.stages import begin, seconds, stage


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Every look at the clock is a second later than the one before."""
    ticks = count()
    monkeypatch.setattr(stages, "perf_counter", lambda: float(next(ticks)))
    begin()
    yield
    begin()


def test_seconds_of_nested_stages_add_up():
    with stage("outer"), stage("inner"):  # ticks: 0 begins, 1 begins, 2 ends, 3 ends
        pass
    assert seconds() == {"inner": 1.0, "outer": 2.0}
    assert sum(seconds().values()) == 3.0  # from the first tick to the last


def test_equal_names_add_up_and_a_new_run_forgets_them():
    for _ in range(3):
        with stage("retraining"):
            pass
    assert seconds() == {"retraining": 3.0}
    begin()
    assert seconds() == {}


def test_an_interrupted_stage_does_not_count_and_leaves_no_trace():
    with pytest.raises(KeyboardInterrupt), stage("outer"), stage("inner"):
        raise KeyboardInterrupt
    assert seconds() == {}
    with stage("next"):
        pass
    assert seconds() == {"next": 1.0}


def test_lines_of_the_log(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="influcoder_lightning")
    with stage("tokenising") as done:
        done.result = "60 rows"
    with stage("fine-tuning", 225, "steps"):
        pass
    monkeypatch.setattr(stages, "perf_counter", lambda: 0.0)
    with stage("loading the model"):  # nothing to tell
        pass
    assert caplog.messages == [
        "tokenising: 60 rows (1.0 s)",
        "fine-tuning: 225 steps to do",
        "fine-tuning: 225 steps (1.0 s)",
    ]


def test_a_long_stage_that_nobody_watches_gives_a_sign_of_life(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="influcoder_lightning")
    now = [0.0]
    monkeypatch.setattr(stages, "perf_counter", lambda: now[0])
    with stage("training", 1000) as done:
        for completed, at in ((10, 1.0), (500, 301.0), (501, 302.0), (900, 541.8)):
            now[0] = at
            done(completed)
    assert caplog.messages[1:-1] == ["training: 500 of 1,000, about 5 min 1 s left"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [(0.0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (7500, "2 h 5 min")],
)
def test_durations(given, shown):
    assert duration(given) == shown


def test_metrics_are_shown_only_where_somebody_watches():
    class Trainer:
        global_step = 3

        @property
        def callback_metrics(self):
            raise AssertionError("reading them waits for a GPU")

    seen = []

    class Unwatched:
        watched = False

        def __call__(self, completed, note=None):
            seen.append((completed, note))

    ShowSteps(Unwatched(), before=10).on_train_batch_end(Trainer())
    assert seen == [(13, None)]
    metrics = {"influcoder/drift": 0.876, "train_loss": 1.5, "mine": 3}
    assert newest_metrics(metrics) == ["loss 1.500", "drift 0.88"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_live_line_and_it_goes_away(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with stage("fine-tuning", 40) as done:
        assert done.watched
        with stage("inner") as inner:
            inner(1, "a note")
        done(20, "drift 0.98")
        stages._display._progress.refresh()
    shown = terminal.getvalue()
    assert "fine-tuning" in shown
    assert "20 of 40" in shown
    assert "drift 0.98" in shown
    assert shown.rindex("\x1b[2K") > shown.rindex("fine-tuning")  # the line is taken away
    with stage("next", 1):
        pass  # and there can be another


def test_without_a_terminal_nothing_is_drawn(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    with stage("fine-tuning", 40) as done:
        assert not done.watched
        done(20, "drift 0.98")
    assert file.getvalue() == ""
