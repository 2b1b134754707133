import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.errors import RankingError
from influcoder_lightning.selection.selection import (
    available_strategies,
    register_strategy,
    select,
    select_rows,
)

ABCD = Ranking(["a", "b", "c", "d"], [0.1, 0.9, 0.5, 0.4])


@st.composite
def pools(draw):
    ids = draw(st.lists(st.text(max_size=4), min_size=1, max_size=12, unique=True))
    scores = draw(
        st.lists(
            st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(-5, 5)),
            min_size=len(ids),
            max_size=len(ids),
        )
    )
    return dict(zip(ids, scores, strict=True))


def ranking_of(pool):
    return Ranking(list(pool), list(pool.values()))


@given(pools(), st.data())
def test_top_and_bottom_k(pool, data):
    k = data.draw(st.integers(1, len(pool)))
    top = select(ranking_of(pool), k=k)
    assert [pool[i] for i in top] == sorted(pool.values(), reverse=True)[:k]
    bottom = select(ranking_of(pool), "bottom_k", k=k)
    assert [pool[i] for i in bottom] == sorted(pool.values())[:k]


@given(pools(), st.data(), st.integers(0, 5), st.randoms())
def test_random_depends_on_ids_and_seed_only(pool, data, seed, chance):
    k = data.draw(st.integers(1, len(pool)))
    chosen = select(ranking_of(pool), "random", k, seed=seed)
    assert len(set(chosen)) == k
    assert set(chosen) <= set(pool)
    shuffled = list(pool)
    chance.shuffle(shuffled)
    other = Ranking(shuffled, [chance.random() for _ in shuffled])
    assert select(other, "random", k, seed=seed) == chosen


def test_random_differs_between_seeds_and_covers_the_pool():
    ranking = Ranking(range(50), range(50))
    draws = [select(ranking, "random", 10, seed=seed) for seed in range(40)]
    assert len({tuple(d) for d in draws}) == 40
    assert {i for d in draws for i in d} == set(range(50))


@given(pools(), st.floats(-5, 5))
def test_threshold(pool, threshold):
    wanted = [i for i in pool if pool[i] >= threshold]
    if not wanted:
        with pytest.raises(RankingError, match="no sample reaches"):
            select(ranking_of(pool), "threshold", threshold=threshold)
        return
    chosen = select(ranking_of(pool), "threshold", threshold=threshold)
    assert sorted(chosen) == sorted(wanted)
    assert [pool[i] for i in chosen] == sorted((pool[i] for i in wanted), reverse=True)


@given(pools(), st.data(), st.booleans())
def test_per_group_takes_the_best_of_each(pool, data, as_mapping):
    labels = data.draw(st.lists(st.sampled_from("xyz"), min_size=len(pool), max_size=len(pool)))
    groups = dict(zip(pool, labels, strict=True))
    quota = {g: data.draw(st.integers(0, labels.count(g))) for g in set(labels)}
    if not any(quota.values()):
        quota[labels[0]] = 1
    given_groups = groups if as_mapping else labels
    chosen = select(ranking_of(pool), "per_group", groups=given_groups, quota=quota)
    for group, count in quota.items():
        inside = sorted((pool[i] for i in pool if groups[i] == group), reverse=True)
        assert [pool[i] for i in chosen if groups[i] == group] == inside[:count]
    assert [pool[i] for i in chosen] == sorted((pool[i] for i in chosen), reverse=True)


def test_one_quota_for_all_groups():
    groups = {"a": 1, "b": 2, "c": 1, "d": 2}
    assert select(ABCD, "per_group", groups=groups, quota=1) == ["b", "c"]
    numbered = Ranking([1, 2], [0.5, 0.6])
    assert select(numbered, "per_group", groups={"1": "x", "2": "x"}, quota=1) == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "topk", "k": 1}, "did you mean 'top_k'.*bottom_k.*threshold"),
        ({}, "'top_k' needs k"),
        ({"k": 5}, "k=5 does not fit a ranking of 4"),
        ({"k": 0}, "k=0 does not fit"),
        ({"strategy": "bottom_k", "k": 5}, "k=5.*4 samples"),
        ({"strategy": "random", "k": 5}, "k=5.*4 samples"),
        ({"strategy": "random", "k": True}, "k=True"),
        ({"k": 2, "threshold": 0.5}, "does not use threshold"),
        ({"strategy": "threshold", "k": 2, "threshold": 0.5}, "does not use k"),
        ({"strategy": "threshold", "threshold": math.nan}, "threshold is NaN"),
        ({"strategy": "threshold", "threshold": 2}, "best score of 4 samples is 0.9"),
        ({"strategy": "per_group", "quota": 1}, "needs groups"),
        ({"strategy": "per_group"}, "needs groups and quota"),
        ({"strategy": "per_group", "groups": {"a": 1}, "quota": 1}, "3 of 4 samples have no group"),
        ({"strategy": "per_group", "groups": ["x"] * 3, "quota": 1}, "3 entries for 4 samples"),
        ({"strategy": "per_group", "groups": "xxyy", "quota": 1}, "mapping id -> group"),
        ({"strategy": "per_group", "groups": list("xxxy"), "quota": 2}, "group 'y' has 1 .*of 2"),
        ({"strategy": "per_group", "groups": list("xxyy"), "quota": {"x": 1}}, "lacks.*'y'"),
        (
            {"strategy": "per_group", "groups": list("xxxx"), "quota": {"x": 1, "z": 1}},
            "no sample has.*'z'",
        ),
        ({"strategy": "per_group", "groups": list("xxxx"), "quota": -1}, "'x' is -1"),
        ({"strategy": "per_group", "groups": list("xxxx"), "quota": 0}, "every quota is 0"),
    ],
)
def test_what_cannot_be_selected(arguments, message):
    with pytest.raises(RankingError, match=message):
        select(ABCD, **arguments)


def test_samples_without_a_score_are_neither_best_nor_worst():
    ranking = Ranking(["a", "b", "c"], [math.nan, 1, 2])
    assert select(ranking, "bottom_k", 1) == ["b"]
    assert select(ranking, "threshold", threshold=-9) == ["c", "b"]
    assert select(ranking, "per_group", groups=["x"] * 3, quota=2) == ["c", "b"]
    with pytest.raises(RankingError, match=r"k=3.*1 have no score.*from 1 to 2"):
        select(ranking, k=3)
    with pytest.raises(RankingError, match="2 scored samples"):
        select(ranking, "per_group", groups=["x"] * 3, quota=3)


def test_a_registered_strategy_is_found():
    @register_strategy("every_other")
    def every_other(ranking, *, k):
        return ranking.top_k(2 * k)[::2]

    assert select(ABCD, "every_other", k=2) == ["b", "d"]
    assert "every_other" in available_strategies()
    with pytest.raises(RankingError, match="exists already"):
        register_strategy("every_other")(every_other)


def test_rows_come_as_they_are_in_order_of_rank():
    rows = [{"id": i, "prompt": i, "extra": {"deep": [1]}} for i in "abcd"]
    rows.append({"id": "d", "prompt": "again", "influence_score": 7})
    chosen = select_rows(rows, ["a", "d", "b"], ABCD, [r["id"] for r in rows])
    assert chosen == [
        {**rows[1], "influence_score": 0.9},
        {**rows[3], "influence_score": 0.4},
        {**rows[4], "influence_score": 0.4},
        {**rows[0], "influence_score": 0.1},
    ]
    assert "influence_score" not in rows[0]
    assert rows[4]["influence_score"] == 7
    assert list(chosen[0]) == ["id", "prompt", "extra", "influence_score"]


def test_rows_by_position_match_ids_from_a_file():
    ranking = Ranking(["0", "1"], [0.5, math.nan])
    chosen = select_rows([{"p": 1}, {"p": 2}], [1, 0], ranking, range(2))
    assert chosen == [{"p": 1, "influence_score": 0.5}, {"p": 2, "influence_score": None}]
    json.dumps(chosen, allow_nan=False)


@pytest.mark.parametrize(
    ("ids", "row_ids", "message"),
    [
        (["a"], ["a"], "2 rows and 1 row ids"),
        (["a", "z"], ["a", "b"], "1 of 2 chosen ids are not in the pool.*'z'"),
        (["a", "z"], ["a", "z"], "1 of 2 chosen ids are not in the ranking.*'z'"),
    ],
)
def test_rows_that_do_not_fit(ids, row_ids, message):
    with pytest.raises(RankingError, match=message):
        select_rows([{}, {}], ids, ABCD, row_ids)
