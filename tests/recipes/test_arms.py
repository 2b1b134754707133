"""Arms of a comparison: side by side as one by one, and never trained twice."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from running import TINY, error_of, run

from influcoder_lightning.recipes import arms

KEYS = ["select.k=10", "seeds=[0]", "retrain.steps=2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("arms") / "base"
    run("quickstart", folder, *TINY, "retrain.steps=1")
    return folder


def losses(folder: Path):
    found = json.loads((folder / "comparison.json").read_text())["arms"]
    return {name: arm["eval_loss"] for name, arm in found.items()}


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, int]]:
    """Arm and seed of each training in this process."""
    seen: list[tuple[str, int]] = []
    train = arms._Arms.__call__

    def noted(self, one):
        seen.append((one.arm, one.seed))
        return train(self, one)

    monkeypatch.setattr(arms._Arms, "__call__", noted)
    return seen


def test_arms_side_by_side_are_those_of_one_by_one(base, tmp_path, trained, monkeypatch):
    """What goes to another process is pickled; `test_side_by_side` starts real ones."""
    run("compare", tmp_path / "one", f"from={base}", *KEYS, "parallel.jobs=1")
    assert len(trained) == 4
    asked = []

    def elsewhere(tasks, start, jobs):
        asked.append((len(tasks), jobs))
        work = pickle.loads(pickle.dumps(start))()
        yield from ((task, work(pickle.loads(pickle.dumps(task)))) for task in reversed(tasks))

    monkeypatch.setattr(arms, "side_by_side", elsewhere)
    run("compare", tmp_path / "two", f"from={base}", *KEYS, "parallel.jobs=2")
    assert asked == [(3, 2)]  # the first one was trained here
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    for arm, values in one.items():
        assert values == pytest.approx(two[arm], rel=1e-6)


def test_an_interrupted_comparison_goes_on_arm_by_arm(base, tmp_path, trained, monkeypatch, capsys):
    run("compare", tmp_path / "whole", f"from={base}", *KEYS)
    assert len(trained) == 4
    evaluate, left = arms.evaluate, [3]

    def interrupted(*given):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return evaluate(*given)

    with monkeypatch.context() as patch:
        patch.setattr(arms, "evaluate", interrupted)
        with pytest.raises(SystemExit):
            run("compare", tmp_path / "cut", f"from={base}", *KEYS)
    assert "Go on where it stopped: the same command" in capsys.readouterr().err
    del trained[:]
    run("compare", tmp_path / "cut", f"from={base}", *KEYS)
    assert trained == [("random_k", 0), ("bottom_k", 0), ("full", 0)]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    del trained[:]
    run("compare", tmp_path / "cut", f"from={base}", *KEYS, "retrain.steps=1")
    assert len(trained) == 4  # other steps are other arms


def test_a_pipeline_goes_on_behind_its_valuation(base, tmp_path, trained, monkeypatch, capsys):
    rows = [f"data.{n}={base / 'data' / n}.jsonl" for n in ("pool", "query", "eval")]
    keys = [f"model.name={base / 'model'}", *rows, *TINY[5:], *KEYS, "train.max_length=64"]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(arms, "evaluate", interrupted)
        with pytest.raises(SystemExit):
            run("pipeline", tmp_path, *keys)
    assert "Go on behind the valuation, which is complete" in capsys.readouterr().err
    written = (tmp_path / "influence" / "influence.h5").stat().st_mtime_ns
    run("pipeline", tmp_path, *keys, "resume=true")
    assert (tmp_path / "influence" / "influence.h5").stat().st_mtime_ns == written
    assert len(trained) == 4
    capsys.readouterr()
    changed = [*keys, "resume=true", "train.lr=0.5"]
    assert "train.lr" in error_of(capsys, "pipeline", tmp_path, *changed)
