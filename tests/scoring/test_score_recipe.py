"""recipe=score of new samples, as the command runs it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from influcoder_lightning import InfluenceStore, Ranking, load_rows, write_jsonl
from influcoder_lightning.cli import run_recipe
from influcoder_lightning.influence import registry
from influcoder_lightning.influence.method import METHODS
from influcoder_lightning.run.materials import Materials

TINY = [
    "quickstart.n_pool=40",
    "quickstart.n_query=4",
    "quickstart.n_eval=4",
    "quickstart.pretrain_steps=2",
    "quickstart.hidden_size=32",
    "train.epochs=1",
    "influence.sketch_dim=256",
    "influence.code_dim=16",
    "select.k=5",
    "retrain.steps=1",
    "seeds=[0]",
]


def run(recipe: str, folder: Path, *overrides: str) -> Path:
    GlobalHydra.instance().clear()
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=[f"recipe={recipe}", *overrides])
    folder.mkdir(parents=True, exist_ok=True)
    run_recipe(recipe, cfg, folder, [override.partition("=")[0] for override in overrides])
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return run("quickstart", tmp_path_factory.mktemp("score") / "base", *TINY)


@pytest.fixture(scope="module")
def pool(base, tmp_path_factory) -> Path:
    """Rows never trained on, in two files."""
    folder = tmp_path_factory.mktemp("pool")
    old = load_rows(base / "data" / "pool.jsonl")
    rows = [
        {"prompt": f"{old[i % 40]['prompt']} {i}", "response": old[i % 40]["response"],
         "task": f"t{i % 3}", "more": {"n": i}}
        for i in range(90)
    ]  # fmt: skip
    write_jsonl(rows[:50], folder / "a.jsonl")
    write_jsonl(rows[50:], folder / "b.jsonl")
    return folder


@pytest.fixture
def own_method():
    yield "ours"
    METHODS.pop("ours", None)


def test_new_rows_are_scored_as_by_the_method_in_memory(base, pool, tmp_path):
    folder = run(
        "score", tmp_path, f"from={base}", f"data.pool={pool}/*.jsonl", "score.part_rows=20",
        "select.k=7",
    )  # fmt: skip
    rows = load_rows(pool / "a.jsonl") + load_rows(pool / "b.jsonl")
    expected = InfluenceStore(base).rank("encoder", data=rows)
    got = Ranking.load(folder / "ranking.csv").align(expected.sample_ids)
    scale = np.abs(expected.scores).max()
    np.testing.assert_allclose(got.scores, expected.scores, rtol=0, atol=1e-6 * scale)
    sure = pd.read_csv(folder / "confidence.csv").sort_values("sample_id").confidence
    np.testing.assert_allclose(sure, expected.confidence, atol=1e-6)
    chosen = [json.loads(line) for line in (folder / "selected.jsonl").open()]
    best = got.top_k(7)
    assert [row.pop("influence_score") for row in chosen] == [got.scores[i] for i in best]
    assert chosen == [rows[i] for i in best]
    for name in ("report.html", "report.md", "ranking.png", "config.yaml"):
        assert (folder / name).stat().st_size > 0
    # A later step knows the pool by the same fingerprint.
    config = OmegaConf.load(folder / "config.yaml")
    assert config.facts.pool == Materials(config, "select").pool.fingerprint()
    run("select", tmp_path / "again", f"from={folder}", "select.k=3", "select.strategy=bottom_k")
    assert len(load_rows(tmp_path / "again" / "selected.jsonl")) == 3


def test_resume_scores_only_what_is_missing(base, pool, tmp_path, capsys, caplog):
    options = [f"from={base}", f"data.pool={pool}/a.jsonl", "score.part_rows=20"]
    run("score", tmp_path, *options)
    whole = (tmp_path / "ranking.csv").read_text()
    (tmp_path / "config.yaml").unlink()  # as where it was interrupted
    with pytest.raises(SystemExit):
        run("score", tmp_path, *options)
    assert "already holds scores" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("score", tmp_path, *options, "score.part_rows=10", "resume=true")
    assert "part_rows changed since" in capsys.readouterr().err
    (tmp_path / "scores" / "part-00001.jsonl").unlink()
    kept = (tmp_path / "scores" / "part-00000.jsonl").stat().st_mtime_ns
    caplog.clear()
    with caplog.at_level(logging.INFO, "influcoder_lightning"):
        run("score", tmp_path, *options, "resume=true", "score.batch_size=3", "select.k=2")
    said = [record.getMessage().partition(" (")[0] for record in caplog.records]
    assert [line for line in said if line.startswith("scoring")] == [
        "scoring: 20 rows to do",
        "scoring: 20 rows",
    ]
    assert (tmp_path / "scores" / "part-00000.jsonl").stat().st_mtime_ns == kept
    again = Ranking.load(tmp_path / "ranking.csv")
    (tmp_path / "before.csv").write_text(whole)
    before = Ranking.load(tmp_path / "before.csv").align(again.sample_ids)
    np.testing.assert_allclose(again.scores, before.scores, atol=1e-6)
    assert len(load_rows(tmp_path / "selected.jsonl")) == 2


def test_new_rows_towards_new_queries(base, pool, tmp_path):
    write_jsonl([{"prompt": "Say in Zumi: boat", "response": "kel"}], tmp_path / "new.jsonl")
    folder = run(
        "score", tmp_path / "run", f"from={base}", f"data.pool={pool}/a.jsonl",
        f"queries={tmp_path}/new.jsonl",
    )  # fmt: skip
    store = InfluenceStore(folder)
    asked = store.query_ids[-1:].tolist()
    expected = store.rank("encoder", queries=asked, data=load_rows(pool / "a.jsonl"))
    got = Ranking.load(folder / "ranking.csv").align(expected.sample_ids)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-6)


def test_new_rows_are_ranked_by_a_method_on_text(base, pool, tmp_path):
    run("score", tmp_path, f"from={base}", f"data.pool={pool}/a.jsonl", "rank.method=bm25")
    expected = InfluenceStore(base).rank("bm25", data=load_rows(pool / "a.jsonl"))
    got = Ranking.load(tmp_path / "ranking.csv").align(expected.sample_ids)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-6)


@pytest.mark.parametrize("needs", [{"text"}, None], ids=["declared", "undeclared"])
def test_new_rows_are_ranked_by_a_plug_in_on_text(base, pool, tmp_path, own_method, needs):
    @registry.register(own_method, needs=needs)
    def by_prompt(request):
        ids, rows = request.data_rows()
        return Ranking(ids, [len(row["prompt"]) for row in rows])

    run("score", tmp_path, f"from={base}", f"data.pool={pool}/a.jsonl", f"rank.method={own_method}")
    got = Ranking.load(tmp_path / "ranking.csv").align(list(range(50)))
    lengths = [len(row["prompt"]) for row in load_rows(pool / "a.jsonl")]
    np.testing.assert_array_equal(got.scores, lengths)


def test_new_rows_never_get_the_scores_of_valued_samples(base, pool, tmp_path, own_method, capsys):
    """Their ids can be the same: both count from 0."""

    @registry.register(own_method)
    def by_gradients(request):
        store = request.require_store()
        return Ranking(store.sample_ids, store.column("grad_norm"))

    for method, words in [(own_method, "these samples are new"), ("length", "needs the records")]:
        with pytest.raises(SystemExit):
            run("score", tmp_path / method, f"from={base}", f"data.pool={pool}/a.jsonl",
                f"rank.method={method}")  # fmt: skip
        assert words in capsys.readouterr().err
        assert not (tmp_path / method / "ranking.csv").exists()


def test_the_valued_pool_can_be_scored_from_text_too(base, tmp_path):
    folder = run("score", tmp_path, f"from={base}", "rank.method=encoder")
    rows = load_rows(base / "data" / "pool.jsonl")
    expected = InfluenceStore(base).rank("encoder", data=rows)
    got = Ranking.load(folder / "ranking.csv").align(expected.sample_ids)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-6)


def test_a_copy_of_the_valued_pool_is_known_for_what_it_is(base, tmp_path, capsys):
    rows = load_rows(base / "data" / "pool.jsonl")
    write_jsonl(rows, tmp_path / "copy.jsonl")
    with pytest.raises(SystemExit):
        run("score", tmp_path / "run", f"from={base}", f"data.pool={tmp_path}/copy.jsonl")
    assert "needs something new" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["select.strategy=per_group", "select.k=2"], "recipe=select from="),
        (["select.k=51"], "more than the 50 rows"),
        (["data.pool=/no/such-*.jsonl"], "such-*.jsonl: no such file"),
        (["score.processes=0"], "at least 1"),
        (["data.eval=POOL/a.jsonl"], "50 pool row(s) are also evaluation rows"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_scored(
    base, pool, tmp_path, capsys, overrides, words
):
    overrides = [override.replace("POOL", str(pool)) for override in overrides]
    with pytest.raises(SystemExit):
        run("score", tmp_path, f"from={base}", f"data.pool={pool}/a.jsonl", *overrides)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()
