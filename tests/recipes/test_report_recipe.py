"""From a training of one's own to the report, to a choice and to the check by retraining."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import FineTuning, loader, tokens, trainer
from running import TINY, error_of, run

from influcoder_lightning import InfluenceCallback, InfluenceStore, Ranking, load_rows
from influcoder_lightning.errors import ConfigError

ROWS = [{"prompt": f"What is {i}?", "response": f"It is {i}."} for i in range(8)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A run, whose store is taken for one that the callback wrote: there is no run around it."""
    folder = tmp_path_factory.mktemp("report") / "base"
    run("quickstart", folder, *TINY)
    (folder / "influence").rename(folder.parent / "store")
    return folder


def keys_of(base: Path) -> list[str]:
    return [f"from={base.parent / 'store'}", f"data.pool={base / 'data' / 'pool.jsonl'}"]


def test_the_callback_writes_the_report_of_its_training(base, tmp_path):
    callback = InfluenceCallback(
        str(tmp_path / "influence"), query_dataloader=loader(tokens(3, seed=2), 2),
        sketch_dim=128, code_dim=8,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"call `report` after `trainer\.fit"):
        callback.report(ROWS)
    trainer(tmp_path, [callback]).fit(FineTuning(), loader(tokens(8), 4))
    path = callback.report(ROWS, method="cosine")
    assert path == tmp_path / "report.html"
    assert "What is 3?" in path.read_text(encoding="utf-8")
    expected = InfluenceStore(tmp_path / "influence").rank("cosine")
    ranking = Ranking.load(tmp_path / "ranking.csv")
    assert ranking.align(expected.sample_ids).scores.tolist() == pytest.approx(
        expected.scores.tolist()
    )
    run(
        "select",
        tmp_path / "chosen",
        f"from={tmp_path}",
        "select.k=3",
        f"model.name={base / 'model'}",
    )
    assert len(load_rows(tmp_path / "chosen" / "selected.jsonl")) == 3


def test_a_store_alone_is_reported_chosen_from_and_checked(base, tmp_path, capsys):
    model = f"model.name={base / 'model'}"
    run("report", tmp_path / "report", *keys_of(base), "rank.method=cosine")
    assert (tmp_path / "report" / "report.html").is_file()
    run("select", tmp_path / "chosen", *keys_of(base), "select.k=5", model)
    assert len(load_rows(tmp_path / "chosen" / "selected.jsonl")) == 5
    evaluation = f"data.eval={base / 'data' / 'eval.jsonl'}"
    more = [model, evaluation, "select.k=5", "seeds=[0]", "retrain.steps=1", "train.batch_size=4"]
    run("compare", tmp_path / "compared", *keys_of(base), *more)
    found = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert set(found["arms"]) == {"top_k", "random_k", "bottom_k", "full", "base"}
    capsys.readouterr()
    said = error_of(capsys, "select", tmp_path / "no", keys_of(base)[0], "select.k=5", model)
    assert "needs data.pool" in said


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_scores_of_any_file_are_held_against_retraining(base, tmp_path, kind):
    pool = load_rows(base / "data" / "pool.jsonl")
    scores = {str(row["id"]): float(i) for i, row in enumerate(pool)}
    path = tmp_path / f"scores.{kind}"
    if kind == "json":
        path.write_text(json.dumps(list(scores.values())))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sample_id", "score"])
            writer.writerows(scores.items())
    keys = [
        f"rank.file={path}", f"model.name={base / 'model'}",
        f"data.pool={base / 'data/pool.jsonl'}",
        f"data.eval={base / 'data/eval.jsonl'}", "select.k=5", "seeds=[0]", "retrain.steps=1",
        "train.batch_size=4",
    ]  # fmt: skip
    run("compare", tmp_path / "run", *keys)
    found = Ranking.load(tmp_path / "run" / "ranking.csv")
    assert found.top_k(5) == [str(row["id"]) for row in pool[:-6:-1]]
    assert path.name in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_scores_of_another_pool_are_refused(base, tmp_path, capsys):
    (tmp_path / "scores.json").write_text("[1.0, 2.0]")
    keys = [
        f"rank.file={tmp_path / 'scores.json'}", f"model.name={base / 'model'}",
        f"data.pool={base / 'data/pool.jsonl'}", "select.k=5",
    ]  # fmt: skip
    assert "2 scores without ids, and the pool 60 rows" in error_of(
        capsys, "select", tmp_path / "run", *keys
    )
