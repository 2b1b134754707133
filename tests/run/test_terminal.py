"""A whole run as a person sees it on a terminal, and as a file keeps it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from running import TINY

from influcoder_lightning.run.progress import newest_metrics

OPTIONS = [*TINY, "seeds=[0]", "hydra.run.dir=run"]
SETTINGS = {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "TERM": "xterm"}


def on_a_terminal(commands: Path, folder: Path) -> str:
    """All that the command writes to a terminal of 100 columns."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [commands / "influcoder", *OPTIONS],
        cwd=folder,
        env=os.environ | SETTINGS,
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    shown = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # its end is closed: the command is over
            break
        if not some:
            break
        shown += some
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()


@pytest.mark.slow
def test_a_terminal_shows_what_goes_on(commands, tmp_path):
    shown = on_a_terminal(commands, tmp_path)
    live = re.findall(r"fine-tuning\W[^\r\n]*?(\d+) of (\d+)", shown)
    assert {total for _, total in live} == {"8"}
    assert "drift" in shown
    assert re.search(r"retraining\W[^\r\n]*top_k, seed 0", shown)
    assert "run/report.html" in shown
    assert "next: influcoder recipe=pipeline" in shown
    log = (tmp_path / "run" / "influcoder.log").read_text()
    assert "\x1b" not in log
    assert "fine-tuning: " in log


def test_metrics_beside_the_bar():
    # Which of them a run shows depends on how often it is read: a few times a second.
    metrics = {"influcoder/step_time_share": 0.08, "train_loss": 1.5, "other": 3.0}
    assert newest_metrics(metrics) == ["loss 1.500", "valuing 8% of time"]


@pytest.mark.slow
def test_a_file_gets_plain_lines(commands, tmp_path):
    done = subprocess.run(
        [commands / "influcoder", *OPTIONS],
        cwd=tmp_path,
        env=os.environ | SETTINGS,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("making up data: 60 rows")
    assert next(line for line in lines if line.startswith("fine-tuning: ")) == (
        "fine-tuning: 8 steps to do"
    )
    assert sum(line.startswith("  report ") for line in lines) == 1
    assert lines[-1].startswith("next: influcoder recipe=pipeline")
