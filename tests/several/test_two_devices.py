"""The command on two devices: a process each, one run folder, the rows of one process."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from running import TINY, run

from influcoder_lightning import InfluenceStore
from influcoder_lightning.run import together

TWO = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"}


def keys_of(base: Path) -> list[str]:
    """Of a run on the quickstart's model and rows: 60 rows, in micro-batches of 5."""
    rows = {f"data.{name}": base / "data" / f"{name}.jsonl" for name in ("pool", "query", "eval")}
    keys = [f"{key}={value}" for key, value in (rows | {"model.name": base / "model"}).items()]
    return [
        *keys, "train.batch_size=5", "train.max_length=64", "influence.keep_sketches=true",
        "influence.sketch_dim=256", "influence.code_dim=16", "select.k=10", "retrain.steps=2",
        "seeds=[0]",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "base"
    run("quickstart", folder, *TINY)
    return folder


def command(commands, folder: Path, *keys: str) -> str:
    done = subprocess.run(
        [commands / "influcoder", *keys], capture_output=True, text=True, timeout=240, check=False,
        cwd=folder, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def two(commands, base) -> Path:
    """A pipeline on two devices, and a retraining that goes on from it."""
    keys = ["recipe=pipeline", *keys_of(base), *TWO, "hydra.run.dir=two"]
    (base.parent / "said").write_text(command(commands, base.parent, *keys))
    return base.parent / "two"


def by_key(store: InfluenceStore) -> dict[tuple[str, int], np.ndarray]:
    records = store.records()
    keys = zip(records.sample_id.tolist(), records.step.tolist(), strict=True)
    return dict(zip(keys, store.sketches(), strict=True))


def scores_of(folder: Path) -> dict[str, float]:
    ranking = InfluenceStore(folder).rank("cosine")
    return dict(zip(ranking.sample_ids.tolist(), ranking.scores.tolist(), strict=True))


def test_rows_and_losses_are_those_of_one_process_that_accumulates(base, two, tmp_path):
    run("pipeline", tmp_path / "one", *keys_of(base), "train.accumulate=2")
    ours, alone = (by_key(InfluenceStore(folder)) for folder in (two, tmp_path / "one"))
    assert ours.keys() == alone.keys()
    for key, row in ours.items():
        np.testing.assert_allclose(row, alone[key], rtol=1e-4, atol=1e-5)
    scores, one = (scores_of(folder) for folder in (two, tmp_path / "one"))
    assert scores == pytest.approx(one, abs=2e-3)
    losses, one = (
        json.loads((f / "comparison.json").read_text())["arms"] for f in (two, tmp_path / "one")
    )
    for arm in ("base", "top_k", "full"):
        assert losses[arm]["mean"] == pytest.approx(one[arm]["mean"], abs=2e-3)


def test_there_is_one_run_folder_and_every_file_is_written_once(base, two):
    said = (base.parent / "said").read_text()
    assert said.count("fine-tuning: 6 steps to do") == 1
    assert said.count("pipeline: done in") == 1
    written = {p.relative_to(two).as_posix() for p in two.rglob("*") if p.is_file()}
    assert not [name for name in written if "rank_" in name or "process" in name or "part" in name]
    assert {"config.yaml", "ranking.csv", "selected.jsonl", "report.html"} <= written
    with (two / "ranking.csv").open(newline="") as file:
        assert len({row["sample_id"] for row in csv.DictReader(file)}) == 60
    assert {p.name for p in base.parent.iterdir()} == {"base", "two", "said"}


def test_a_retraining_takes_the_same_devices(commands, base, two, tmp_path):
    said = command(commands, tmp_path, "recipe=retrain", f"from={two}", "hydra.run.dir=again")
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    top = json.loads((two / "comparison.json").read_text())["arms"]["top_k"]["mean"]
    assert again["eval_loss"]["after"] == pytest.approx(top, abs=1e-3)
    assert said.count("retrain: done in") == 1
    assert (tmp_path / "again" / "adapter" / "adapter_model.safetensors").is_file()


def test_weights_in_shares_train_as_whole_ones_and_give_a_whole_adapter(
    commands, base, two, tmp_path
):
    keys = ["recipe=retrain", f"from={two}", "hydra.run.dir=shares", "trainer.strategy=fsdp2"]
    command(commands, tmp_path, *keys)
    shares = tmp_path / "shares"
    after = json.loads((shares / "metrics.json").read_text())["eval_loss"]["after"]
    top = json.loads((two / "comparison.json").read_text())["arms"]["top_k"]["mean"]
    assert after == pytest.approx(top, abs=1e-3)
    sizes = [(f / "adapter" / "adapter_model.safetensors").stat().st_size for f in (shares, two)]
    assert sizes[0] == sizes[1]


def helpers() -> list[str]:
    """Processes of commands on several devices."""
    found = subprocess.run(
        ["pgrep", "-f", "influcoder_lightning.cli.helper"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return found.stdout.split()


@contextmanager
def training_on_two(base: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A long valuation that has begun to write its store."""
    keys = ["recipe=valuate", *keys_of(base), *TWO, "train.epochs=500", "hydra.run.dir=run"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from influcoder_lightning.cli import main; main()", *keys],
        cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    until = time.monotonic() + 200
    while not list((folder / "run" / "influence").glob("segments/*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.2)
    yield process
    assert helpers() == []


def test_an_interruption_ends_both(base, tmp_path):
    with training_on_two(base, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().startswith("influcoder: interrupted.")


def test_a_process_that_dies_ends_the_run(monkeypatch, capfd):
    """The first process may wait in a collective for ever, where no signal reaches Python."""
    ended = []
    monkeypatch.setattr(together, "_GRACE", 0.1)
    monkeypatch.setattr(together.os, "_exit", ended.append)
    others = [subprocess.Popen([sys.executable, "-c", f"exit({code})"]) for code in (0, 3)]
    together._watch(others)
    assert ended == [1]
    assert "ended with code 3" in capfd.readouterr().err


def test_processes_that_end_well_end_nothing(monkeypatch):
    monkeypatch.setattr(together.os, "_exit", lambda code: pytest.fail("nothing has failed"))
    together._watch([subprocess.Popen([sys.executable, "-c", "pass"])])
