"""The pools of the benchmark `planted` hold what they say, and its figures are what they are."""

import random
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from influcoder_lightning import write_jsonl

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import planted
import planted_sets as sets

SIZES = sets.Sizes(fine=30, planted=8, others=6, queries=4)


@pytest.fixture
def data(tmp_path):
    for name in ("alpaca_gpt4", "gsm8k"):
        rows = [
            {"prompt": f"{name} question {i}", "response": f"answer {i} with some more words"}
            for i in range(80)
        ]
        write_jsonl(rows, tmp_path / f"{name}.jsonl")
    rows = [
        {
            "prompt": f"How do I {i}?",
            "response": f"First, {i} {model}",
            "unsafe_prompt": i % 2 == 0,
            "label": "2_full_refusal" if i > 50 else "1_full_compliance",
        }
        for i in range(60)
        for model in ("a", "b")
    ]
    write_jsonl(rows, tmp_path / "xstest.jsonl")
    return tmp_path


@pytest.mark.parametrize("name", sorted(sets.MAKERS))
def test_ids_are_unique_and_a_seed_gives_the_same_set(data, name):
    made, again = (sets.MAKERS[name](data, SIZES, random.Random(3)) for _ in range(2))
    assert made == again
    ids = [row["id"] for row in made.pool + made.queries]
    assert len(set(ids)) == len(ids)


def test_no_unsafe_prompt_is_in_pool_and_queries(data):
    made = sets.toxic(data, SIZES, random.Random(0))
    tasks = [row["task"] for row in made.pool]
    assert (tasks.count("toxic"), tasks.count("alike"), tasks.count("fine")) == (8, 6, 30)
    assert not {row["prompt"] for row in made.queries} & {row["prompt"] for row in made.pool}


def test_each_fact_has_three_rows_and_its_query_is_worded_in_another_way(data):
    made = sets.facts(data, SIZES, random.Random(0))
    assert len(made.queries) == SIZES.planted
    for query in made.queries:
        mine = [row["prompt"] for row in made.pool if row.get("group") == query["group"]]
        assert len({*mine, query["prompt"]}) == 4


def test_damaged_answers_are_those_of_other_rows_or_in_another_order(data):
    made = sets.damage(data, SIZES, random.Random(0))
    source = {row["prompt"]: row["response"] for row in sets.load_rows(data / "gsm8k.jsonl")}
    for row in made.pool:
        if row["task"] == "wrong answer":
            assert row["response"] != source[row["prompt"]]
        if row["task"] == "word salad":
            assert sorted(row["response"].split()) == sorted(source[row["prompt"]].split())
    pairs = [row["group"] for row in made.pool if "group" in row]
    assert sorted(pairs) == sorted(2 * [str(n) for n in range(SIZES.planted)])


def test_chance_is_the_mean_over_all_orders():
    truth = np.array(["wanted"] * 2 + ["other"] * 4)
    orders = [np.array(order, float) for order in permutations(range(6))]
    found = [
        planted.with_chance({"m": order}, truth, ["wanted"], ["other"])["m"] for order in orders
    ]
    chance = planted.with_chance({}, truth, ["wanted"], ["other"])["chance"]
    assert chance == pytest.approx(np.mean(found))


def test_average_precision_is_that_of_the_scores_whatever_their_range():
    rng = np.random.default_rng(0)
    tasks = rng.choice(["wanted", "other", "left out"], size=400)
    scores = {"far": rng.normal(size=400) * 100, "tied": rng.integers(-3, 3, size=400)}
    kept = tasks != "left out"
    found = planted.with_chance(scores, tasks, ["wanted"], ["other"])
    for method, each in scores.items():
        expected = average_precision_score(tasks[kept] == "wanted", each[kept])
        assert found[method] == pytest.approx(expected)


def test_a_fact_is_found_at_the_ranks_of_its_rows_also_below_zero_and_among_ties(monkeypatch):
    scores = np.random.default_rng(1).integers(-9, 0, size=(4, 120)).astype(float)
    groups = [str(n % 40) for n in range(120)]
    rows = [{"id": n, "group": group} for n, group in enumerate(groups)]
    queries = [{"id": f"q{n}", "group": str(n)} for n in range(4)]
    monkeypatch.setattr(planted, "store_scores", lambda *_: {"m": scores})
    monkeypatch.setattr(planted, "text_scores", lambda *_: {})
    found = planted.facts_figures(None, None, sets.Planted(rows, queries))
    shares, firsts = [], []
    for query, row in zip(queries, scores, strict=True):
        best = sorted(range(120), key=lambda n: (-row[n], n))
        places = [place for place, n in enumerate(best, 1) if groups[n] == query["group"]]
        shares += [place <= planted.TOP for place in places]
        firsts.append(1 / places[0])
    assert found["facts_recall_at_50"]["m"] == pytest.approx(np.mean(shares))
    assert found["facts_mrr"]["m"] == pytest.approx(np.mean(firsts))
