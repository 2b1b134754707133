import csv
import doctest
import importlib
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.errors import RankingError
from influcoder_lightning.spreadsheet import from_cell

finite = st.floats(allow_nan=False, allow_infinity=False)
some_nan = st.one_of(finite, st.just(math.nan), st.sampled_from([0.0, -0.0, 1.0]))
ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=12, unique=True),
    st.lists(st.text(max_size=8), min_size=1, max_size=12, unique=True),
    st.lists(st.text("0123456789-+ ,\"\r\n'", max_size=4), min_size=1, max_size=9, unique=True),
)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@st.composite
def rankings(draw, scores=finite, per_query=False):
    sample_ids = draw(ids)
    n = len(sample_ids)
    values = draw(st.lists(scores, min_size=n, max_size=n))
    if not per_query:
        return Ranking(sample_ids, values)
    m = draw(st.integers(1, 3))
    matrix = np.array(draw(st.lists(finite, min_size=n * m, max_size=n * m))).reshape(m, n)
    return Ranking(sample_ids, values, per_query=matrix, query_ids=[f"q\0{i}" for i in range(m)])


@given(rankings(some_nan))
def test_ranks_are_a_permutation_that_follows_the_scores(ranking):
    n = len(ranking)
    assert sorted(ranking.ranks.tolist()) == list(range(1, n + 1))
    for i in range(n):
        for j in range(n):
            a, b = ranking.scores[i], ranking.scores[j]
            before = a > b or (math.isnan(b) and not math.isnan(a))
            tie = a == b or (math.isnan(a) and math.isnan(b))
            if before or (tie and i < j):
                assert ranking.ranks[i] < ranking.ranks[j]


@given(rankings(some_nan), st.data())
def test_top_and_bottom_are_the_two_ends_of_the_scored_samples(ranking, data):
    scored = sum(not math.isnan(s) for s in ranking.scores)
    assert ranking.n_scored == scored
    for k in (0, -1, scored + 1, True, 1.0):
        with pytest.raises(RankingError, match=f"k={k}"):
            ranking.top_k(k)
        with pytest.raises(RankingError, match=str(len(ranking))):
            ranking.bottom_k(k)
    if not scored:
        return
    k = data.draw(st.integers(1, scored))
    by_id = dict(zip(ranking.sample_ids.tolist(), ranking.scores, strict=True))
    top, bottom = ranking.top_k(k), ranking.bottom_k(k)
    assert len(set(top)) == len(set(bottom)) == k
    assert [by_id[i] for i in top] == sorted(by_id.values(), key=lambda s: (s != s, -s))[:k]
    assert ranking.top_k(scored) == ranking.bottom_k(scored)[::-1]
    assert ranking.bottom_k(scored)[:k] == bottom


@relaxed
@given(rankings())
def test_save_and_load_keep_ids_scores_and_order(tmp_path, ranking):
    path = tmp_path / "ranking.csv"
    ranking.save(path)
    loaded = Ranking.load(path)
    order = np.argsort(ranking.ranks)
    wanted = [str(i) for i in ranking.sample_ids[order].tolist()]
    assert [str(i) for i in loaded.sample_ids.tolist()] == wanted
    assert loaded.scores.tolist() == ranking.scores[order].tolist()
    assert loaded.ranks.tolist() == list(range(1, len(ranking) + 1))
    canonical = all(w == str(int(w)) for w in wanted if w.lstrip("-").isdecimal()) and all(
        w.removeprefix("-").isdecimal() and w.isascii() for w in wanted
    )
    assert (loaded.sample_ids.dtype == np.int64) == canonical
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["sample_id", "score", "rank"]
    assert [from_cell(line[0]) for line in lines[1:]] == wanted
    assert [int(line[2]) for line in lines[1:]] == list(range(1, len(ranking) + 1))
    assert [p.name for p in tmp_path.iterdir()] == ["ranking.csv"]


@relaxed
@given(rankings(per_query=True))
def test_per_query_scores_are_saved_when_asked(tmp_path, ranking):
    path = tmp_path / "deep" / "ranking.csv"
    ranking.save(path, per_query=True)
    loaded = Ranking.load(path, per_query=True)
    order = np.argsort(ranking.ranks)
    assert loaded.per_query.tolist() == ranking.per_query[:, order].tolist()
    assert loaded.query_ids.tolist() == ranking.query_ids.tolist()
    assert Ranking.load(path).per_query is None


@given(rankings(some_nan, per_query=True), st.randoms())
def test_align_reorders_and_keeps_every_score(ranking, chance):
    pool = [str(i) for i in ranking.sample_ids.tolist()]
    chance.shuffle(pool)
    aligned = ranking.align(pool)
    assert aligned.sample_ids.tolist() == pool
    before = {str(i): place for place, i in enumerate(ranking.sample_ids.tolist())}
    for place, key in enumerate(pool):
        np.testing.assert_equal(aligned.scores[place], ranking.scores[before[key]])
        assert (aligned.per_query[:, place] == ranking.per_query[:, before[key]]).all()
    back = aligned.align(ranking.sample_ids)
    np.testing.assert_equal(back.scores, ranking.scores)
    assert back.ranks.tolist() == ranking.ranks.tolist()


def test_align_matches_integers_with_text_and_lists_differences():
    ranking = Ranking([12, 7], [0.1, 0.2])
    assert ranking.align(["7", "12"]).scores.tolist() == [0.2, 0.1]
    with pytest.raises(RankingError, match=r"2 pool ids missing.*'8', '9'.*1 ranked.*'7'"):
        ranking.align([12, 8, 9])
    with pytest.raises(RankingError, match="1 repeated ids"):
        ranking.align([12, 7, 7])
    with pytest.raises(RankingError, match="name one sample"):
        ranking.align([12, 7, "7"])


def test_arrays_are_read_only_and_the_callers_stay_writable():
    ids, matrix = np.array([1, 2]), np.zeros((1, 2))
    ranking = Ranking(ids, [1.0, 2.0], per_query=matrix)
    ids[0] = 5
    matrix[0, 0] = 1
    assert ranking.sample_ids.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        ranking.scores[0] = 3
    with pytest.raises(AttributeError):
        ranking.scores = None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "pool is empty"),
        (([1, 2], [0.5]), "2 sample ids"),
        ((["1", "1"], [0.5, 0.5]), "1 sample ids are repeated.*'1'"),
        (([1, "1"], [0.5, 0.5]), "name one sample"),
        (([1.5], [0.5]), "position 0 is 1.5"),
        (([True], [0.5]), "position 0 is True"),
        (([None], [0.5]), "position 0 is None"),
        (([1], [0.5], np.zeros((1, 2))), r"expected floats.*\[1, 1\]"),
        (([1], [0.5], np.zeros((1, 1)), ["a", "b"]), r"\[2, 1\]"),
    ],
)
def test_what_is_no_ranking(arguments, message):
    with pytest.raises(RankingError, match=message):
        Ranking(*arguments)


def test_frame_is_sorted_by_rank():
    frame = Ranking(["a", "b", "c"], [0.1, 0.3, 0.2]).to_frame()
    assert frame.to_dict("list") == {
        "sample_id": ["b", "c", "a"],
        "score": [0.3, 0.2, 0.1],
        "rank": [1, 2, 3],
    }


def test_ids_from_a_series_or_tensor_like_become_plain():
    assert Ranking(pd.Series([3, 4]), [1, 2]).top_k(1) == [4]
    assert Ranking(np.array(["x", "y"]), [1, 2]).sample_ids.dtype == object


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: needs the columns"),
        ("sample_id,rank\na,1\n", r"line 1.*missing or repeated: \['score'\]"),
        ("id,score,rank\na,1,1\n", r"line 1.*\['sample_id'\]"),
        ("sample_id,score,score\na,1,1\n", r"line 1.*\['score'\]"),
        ("sample_id,score,rank\n", "no samples below the header"),
        ("sample_id,score,rank\na,1,1\nb,0.5\n", "line 3: 2 fields under 3"),
        ("sample_id,score,rank\na,1,1\nb,x,2\n", "line 3: score 'x'"),
        ("sample_id,score,rank\na,nan,1\n", "line 2: score 'nan'"),
        ("sample_id,score,rank\na,inf,1\n", "line 2: score 'inf'"),
        ("sample_id,score,rank\na,1e999,1\n", "line 2: score '1e999'"),
        ("sample_id,score,rank\na,1_0,1\n", "line 2: score '1_0'"),
        ("sample_id,score,rank\na,,1\n", "line 2: score ''"),
        ("sample_id,score,rank\na,1,first\n", "line 2: rank 'first'"),
        ("sample_id,score,rank\na,1,1\nb,2,2\n", "line 3: rank 2 has score 2.0"),
        ("sample_id,score,rank\na,1,1\nb,0.5,2\na,0.2,3\n", "line 4: sample_id 'a' occurs"),
        ('sample_id,score,rank\n"a\nb",1,1\n"c,0,2\n', "line 4: not valid CSV"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "ranking.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RankingError, match=message) as caught:
        Ranking.load(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RankingError, match="no such file"):
        Ranking.load(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"sample_id,score\n\xff\xfe,1\n")
    with pytest.raises(RankingError, match="UTF-8"):
        Ranking.load(tmp_path / "binary.csv")


def test_ranks_settle_ties_and_may_be_absent_or_have_gaps(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("\ufeffscore,sample_id\n1,a\n\n2,b\n", encoding="utf-8")
    assert Ranking.load(path).top_k(2) == ["b", "a"]
    path.write_text("sample_id,score,rank\na,1,9\nb,1,4\n")
    assert Ranking.load(path).top_k(2) == ["b", "a"]


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "ranking.csv"
    path.write_text("old")
    ranking = Ranking(["a", "b"], [math.nan, 1])
    with pytest.raises(RankingError, match=r"1 of 2 samples.*'a'.*finite\(\)"):
        ranking.save(path)
    with pytest.raises(RankingError, match="no per-query"):
        ranking.finite().save(path, per_query=True)
    with pytest.raises(RankingError, match="UTF-8"):
        Ranking(["\ud800"], [1]).save(path)
    assert path.read_text() == "old"
    ranking.finite().save(path)
    assert Ranking.load(path).sample_ids.tolist() == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["ranking.csv"]


def test_per_query_scores_of_another_ranking_are_refused(tmp_path):
    path = tmp_path / "ranking.csv"
    with_queries = Ranking([1, 2], [0.5, 0.4], per_query=np.array([[0.5, 0.4]]))
    with_queries.save(path)
    with pytest.raises(RankingError, match="no such file"):
        Ranking.load(path, per_query=True)
    with_queries.save(path, per_query=True)
    assert Ranking.load(path, per_query=True).query_ids is None
    Ranking([1, 2], [0.5, 0.3]).save(path)
    with pytest.raises(RankingError, match="another ranking"):
        Ranking.load(path, per_query=True)
    (tmp_path / "ranking.per_query.npz").write_bytes(b"junk")
    with pytest.raises(RankingError, match="save the ranking again"):
        Ranking.load(path, per_query=True)
    pickled = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "ranking.per_query.npz", per_query=pickled, scores=pickled)
    with pytest.raises(RankingError, match="save the ranking again"):
        Ranking.load(path, per_query=True)


@pytest.mark.parametrize(
    "module",
    ["influence.ranking", "influence.method", "influence.aggregate",
     "selection.selection",
     "report.press.markdown"],
)  # fmt: skip
def test_docstring_examples(module):
    result = doctest.testmod(importlib.import_module(f"influcoder_lightning.{module}"))
    assert result.attempted
    assert not result.failed


def test_exports_are_lazy():
    code = (
        "import sys, json, influcoder_lightning.influence as i, influcoder_lightning.report;"
        "i.Ranking, i.rank;"
        "heavy = ['torch', 'pandas', 'sklearn', 'scipy', 'matplotlib'];"
        "print(json.dumps([m for m in heavy if m in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == []
