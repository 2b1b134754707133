"""recipe=loop on a tiny model: what it writes, when it stops, what it never looks at."""

from __future__ import annotations

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import running
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import InfluenceStore, Ranking, load_rows, write_jsonl
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer
from influcoder_lightning.recipes.loop import best_round, why_stop
from influcoder_lightning.recipes.loop_round import held_out_queries
from influcoder_lightning.selection.diversity import SampleCodes

WORDS = ("red", "green", "blue", "one", "two")


run = partial(running.run, "loop")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loop_data")
    rng = np.random.default_rng(0)

    def rows(n, name):
        return [
            {
                "prompt": f"{name} {i}: say {' '.join(rng.choice(WORDS, 3))}",
                "response": " ".join(rng.choice(WORDS, 1 + i % 3)),
            }
            for i in range(n)
        ]

    write_jsonl(rows(24, "p"), folder / "pool.jsonl")
    write_jsonl(rows(8, "q"), folder / "query.jsonl")
    # Ids of the evaluation may be those that the rows of the pool get from their place.
    evaluation = [{**row, "id": i} for i, row in enumerate(rows(6, "e"))]
    write_jsonl(evaluation, folder / "eval.jsonl")
    other = [{**row, "response": "two two two"} for row in evaluation]
    write_jsonl(other, folder / "other_eval.jsonl")
    tokenizer = build_tokenizer(["say red green blue one two"], 280, folder / "model")
    build_tiny_llama(folder / "model", tokenizer, hidden_size=32)
    return folder


def common(made: Path, evaluation: str = "eval") -> list[str]:
    return [
        f"model.name={made / 'model'}",
        *(f"data.{name}={made / name}.jsonl" for name in ("pool", "query")),
        f"data.eval={made / evaluation}.jsonl",
        "train.max_length=64",
        "train.lr=1e-3",
        "retrain.steps=2",
        "retrain.lr=3e-3",
        "influence.sketch_dim=128",
        "influence.code_dim=16",
        "seeds=[0,1]",
        "loop.rounds=2",
        "loop.patience=9",
    ]


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loop") / "run"
    (folder.parent / "result").write_text(str(run(folder, *common(made), drawn=True)))
    return folder


def ids_of(path: Path) -> list[str]:
    return [str(row["id"]) for row in load_rows(path)]


def test_two_rounds_and_a_comparison(finished, made):
    result = json.loads((finished / "loop.json").read_text())
    rounds = result["rounds"]
    assert [(r["n_pool"], r["n_kept"]) for r in rounds] == [(24, 24), (24, 12), (12, 6)]
    assert [(r["valuation_steps"], r["retraining_steps"]) for r in rounds] == [
        (0, 2),
        (3, 2),
        (2, 2),
    ]
    assert result["cost"]["steps"] == {"valuation": 5, "retraining": 6, "total": 11}
    assert result["stopped"] == "loop.rounds=2 are done"
    best = result["best_round"]
    assert best == int(np.argmin([r["query_loss"] for r in rounds]))
    for number in (1, 2):
        folder = finished / f"round_{number}"
        ranking = Ranking.load(folder / "ranking.csv")
        kept = ids_of(folder / "selected.jsonl")
        assert set(kept) == set(map(str, ranking.top_k(len(kept))))
        assert set(kept) <= set(ids_of(finished / f"round_{number - 1}" / "selected.jsonl"))
        assert len(InfluenceStore(folder).query_ids) == 6  # two of eight are held out
    assert ids_of(finished / "selected.jsonl") == ids_of(
        finished / f"round_{best}" / "selected.jsonl"
    )
    arms = result["arms"]
    k = rounds[best]["n_kept"]
    assert (result["k"], result["steps"], result["seeds"]) == (k, 2, 2)
    assert {name: (arm["n"], arm["steps"]) for name, arm in arms.items()} == {
        "base": (0, 0),
        "loop": (k, 2),
        "one_shot": (k, 2),
        "random_k": (k, 2),
        "full": (24, 2),
        "full_equal_compute": (24, 11),
    }
    assert float((finished.parent / "result").read_text()) == arms["loop"]["mean"]
    with (finished / "loop.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["kind"] for line in lines] == ["round"] * 3 + ["arm"] * 6
    report = (finished / "report.md").read_text()
    for word in ("loop.png", "full\\_equal\\_compute", "Best round", "round\\_2"):
        assert word in report
    for name in ("loop.png", "config.yaml", "adapter/adapter_config.json"):
        assert (finished / name).stat().st_size > 0


def test_it_goes_on_where_it_stopped(finished, made, tmp_path, capsys):
    folder = tmp_path / "cut"
    shutil.copytree(finished, folder)
    first = (folder / "round_1" / "round.json").read_bytes()
    before = json.loads((folder / "loop.json").read_text())
    # As if killed in the second round, after its valuation.
    for name in ("round_2/round.json", "arms/loop.json", "loop.json"):
        (folder / name).unlink()
    run(folder, *common(made))
    assert (folder / "round_1" / "round.json").read_bytes() == first
    after = json.loads((folder / "loop.json").read_text())
    assert after["arms"] == before["arms"]
    for one, two in zip(before["rounds"], after["rounds"], strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    # The rule may change: nothing is valued again.
    run(folder, *common(made), "loop.min_gain=100", "loop.patience=1")
    assert json.loads((folder / "loop.json").read_text())["best_round"] == 0
    with pytest.raises(SystemExit):
        run(folder, *common(made), "train.lr=0.5")
    assert "made with other settings (train.lr: 0.001 then, 0.5 now)" in capsys.readouterr().err
    (tmp_path / "changed").mkdir()
    model = running.other_weights(made / "model", tmp_path / "changed")
    error = running.error_of(capsys, "loop", folder, *common(made), f"model.name={model}")
    assert "made with other settings (base_model: " in error
    (folder / "round_1" / "round.json").write_text("{")
    with pytest.raises(SystemExit):
        run(folder, *common(made))
    assert "round.json is damaged" in capsys.readouterr().err


def test_the_evaluation_rows_decide_nothing(finished, made, tmp_path):
    run(tmp_path, *common(made, "other_eval"))
    one, two = (json.loads((f / "loop.json").read_text()) for f in (finished, tmp_path))
    assert one["best_round"] == two["best_round"]
    for first, second in zip(one["rounds"], two["rounds"], strict=True):
        assert first["query_loss"] == second["query_loss"]
    assert one["arms"]["loop"]["mean"] != two["arms"]["loop"]["mean"]


def test_diverse_rounds_have_no_near_copies(made, tmp_path):
    pool = load_rows(made / "pool.jsonl")
    copies = [{**row, "prompt": row["prompt"] + " "} for row in pool[:6]]
    write_jsonl([*pool, *copies], tmp_path / "pool.jsonl")
    options = ["select.strategy=diverse", "select.max_similarity=0.9", "loop.rounds=1"]
    few = ["loop.share=0.2", "seeds=[0]", f"data.pool={tmp_path / 'pool.jsonl'}"]
    run(tmp_path / "run", *common(made), *options, *few)
    folder = tmp_path / "run" / "round_1"
    kept = ids_of(folder / "selected.jsonl")
    assert len(kept) == 6
    codes = SampleCodes(InfluenceStore(folder))(np.array(kept, dtype=object))
    assert np.triu(codes @ codes.T, 1).max() <= 0.9


def test_drop_takes_the_worst_away_and_stops_when_there_are_none(made, tmp_path):
    options = [*common(made), "loop.action=drop", "seeds=[0]", "loop.rounds=3"]
    run(tmp_path / "share", *options, "loop.share=0.25", "loop.rounds=1")
    ranking = Ranking.load(tmp_path / "share" / "round_1" / "ranking.csv")
    kept = ids_of(tmp_path / "share" / "round_1" / "selected.jsonl")
    assert set(map(str, ranking.bottom_k(6))) == set(map(str, range(24))) - set(kept)
    run(tmp_path / "low", *options, "loop.threshold=-2", "loop.held_out=0")
    result = json.loads((tmp_path / "low" / "loop.json").read_text())
    assert result["stopped"] == "the last round left the pool as it was"
    assert result["cost"]["steps"] == {"valuation": 3, "retraining": 2, "total": 5}
    assert result["arms"]["loop"]["mean"] == result["arms"]["full"]["mean"]
    assert "are the same samples" in (tmp_path / "low" / "report.md").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.action=keep", "neither select nor drop"),
        ("loop.share=1", "between 0 and 1"),
        ("loop.share=x", "loop.share=x must be a number"),
        ("loop.held_out=1", "below 1"),
        ("loop.rounds=0", "at least 1"),
        ("loop.threshold=0.5", "loop.threshold is for loop.action=drop"),
        ("select.strategy=random", "use top_k or diverse"),
        ("select.k=5", "leave select.k out"),
        ("mode=frozen", "leave mode=training"),
        ("rank.method=cosin", "did you mean"),
        ("seeds=[1,1]", "each once"),
        ("data.eval=null", "needs data.eval"),
    ],
)
def test_what_it_refuses(made, tmp_path, capsys, override, message):
    with pytest.raises(SystemExit):
        run(tmp_path / "x", *common(made), override)
    assert message in capsys.readouterr().err


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=8),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_the_stop_rule(losses, rounds, min_gain, patience):
    # In words: a round counts if it beats the best that counted; stop when too many do not.
    counted, without, expected = [losses[0]], 0, 0
    for number, loss in enumerate(losses[1:], start=1):
        if counted[-1] - loss > min_gain:
            counted.append(loss)
            without, expected = 0, number
        else:
            without += 1
    assert best_round(losses, min_gain) == expected
    reason = why_stop(losses, rounds, min_gain, patience)
    assert (reason is not None) == (without >= patience or len(losses) - 1 >= rounds)


def test_held_out_queries_do_not_rank():
    for n in (2, 3, 30):
        for share in (0.01, 0.3, 0.99):
            ranking, held_out = held_out_queries(n, share, seed=1)
            assert ranking
            assert held_out
            assert sorted(ranking + held_out) == list(range(n))
    assert held_out_queries(4, 0, seed=1) == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert held_out_queries(30, 0.3, 1) != held_out_queries(30, 0.3, 2)
