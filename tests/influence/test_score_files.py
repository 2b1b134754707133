"""Every kind of score file, and what is refused of each."""

from __future__ import annotations

import json
import math
import pickle
import sys
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.score_files import load_scores

SCORES = [0.5, -1.25, 3.0, 0.0]


def by_id(ranking: Ranking) -> dict:
    return dict(zip(ranking.sample_ids.tolist(), ranking.scores.tolist(), strict=True))


def write(path, content):
    """A file of any kind, as somebody else would write it."""
    if path.suffix == ".npy":
        np.save(path, np.asarray(content))
    elif path.suffix == ".pt":
        torch.save(content, path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


MATRIX = [[1.0, 2.0, 3.0], [5.0, 2.0, -3.0]]  # queries x samples; means 3, 2, 0


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("s.csv", "sample_id,score\nb,1\na,2.5\n", {"b": 1.0, "a": 2.5}),
        ("s.csv", "score,note,sample_id\n1,x,7\n2,y,8\n", {7: 1.0, 8: 2.0}),
        ("s.CSV", "sample_id,score\n0,1\n1,\n2,nan\n", {0: 1.0, 1: math.nan, 2: math.nan}),
        ("s.json", {"b": 1, "a": 2.5}, {"b": 1.0, "a": 2.5}),
        ("s.json", {"0": [1, 2, 6], "1": [4]}, {0: 3.0, 1: 4.0}),
        ("s.json", '{"a": NaN, "b": null, "c": [1, null]}', dict.fromkeys("abc", math.nan)),
        ("s.json", '{"a": [Infinity, -Infinity], "b": 1}', {"a": math.nan, "b": 1.0}),
        ("s.json", SCORES, dict(enumerate(SCORES))),
        ("s.json", MATRIX, {0: 3.0, 1: 2.0, 2: 0.0}),
        ("s.json", [[1.0, 2.0]], {0: 1.0, 1: 2.0}),
        ("s.npy", SCORES, dict(enumerate(SCORES))),
        ("s.npy", [SCORES], dict(enumerate(SCORES))),
        ("s.npy", MATRIX, {0: 3.0, 1: 2.0, 2: 0.0}),
        ("s.npy", [[True, False], [True, True]], {0: 1.0, 1: 0.5}),
        ("s.npy", [[1.0, math.nan], [3.0, 4.0]], {0: 2.0, 1: math.nan}),
        ("s.npy", np.asfortranarray(np.array(MATRIX, ">f4")), {0: 3.0, 1: 2.0, 2: 0.0}),
        ("s.pt", torch.tensor(SCORES), dict(enumerate(SCORES))),
        ("s.pt", torch.tensor(MATRIX, dtype=torch.bfloat16), {0: 3.0, 1: 2.0, 2: 0.0}),
        ("s.pt", torch.tensor(MATRIX, dtype=torch.float16).T.contiguous().T, {0: 3, 1: 2, 2: 0}),
        ("s.pt", torch.tensor([[3, 4]], requires_grad=False), {0: 3.0, 1: 4.0}),
        ("s.pt", torch.nn.Parameter(torch.tensor([1.0, 2.0])), {0: 1.0, 1: 2.0}),
    ],
)
def test_kinds(tmp_path, name, content, expected):
    found = by_id(load_scores(write(tmp_path / name, content)))
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), nan_ok=True)


def test_a_run_folder_means_its_ranking(tmp_path):
    Ranking(["x", "y"], [1.0, 2.0]).save(tmp_path / "ranking.csv")
    assert by_id(load_scores(tmp_path)) == {"y": 2.0, "x": 1.0}
    assert by_id(load_scores(str(tmp_path / "ranking.csv"))) == {"y": 2.0, "x": 1.0}


def test_shards_are_joined_in_order(tmp_path):
    first = write(tmp_path / "z.npy", MATRIX)
    second = write(tmp_path / "a.pt", torch.tensor([9.0]))
    ranking = load_scores([first, second])
    assert by_id(ranking) == {0: 3.0, 1: 2.0, 2: 0.0, 3: 9.0}
    assert ranking.metadata["query_rows"] == 2
    named = [
        write(tmp_path / "1.json", {"a": 1}),
        write(tmp_path / "2.csv", "sample_id,score\nb,2"),
    ]
    assert by_id(load_scores(named)) == {"a": 1.0, "b": 2.0}
    with pytest.raises(RankingError, match=r"1\.json.*'a'"):
        load_scores([named[0], named[0]])
    with pytest.raises(RankingError, match="one kind"):
        load_scores([first, named[0]])
    with pytest.raises(RankingError, match="no score file"):
        load_scores([])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["b", "a"], {"b": 1.0, "a": 2.0}),
        ([4, 2], {4: 1.0, 2: 2.0}),
        (["4", "2"], {4: 1.0, 2: 2.0}),
    ],
)
def test_parquet(tmp_path, ids, expected):
    frame = pd.DataFrame({"sample_id": ids, "score": [1.0, 2.0], "more": 0})
    path = tmp_path / "s.parquet"
    for options in ({}, {"compression": "zstd"}, {"use_dictionary": False}, {"row_group_size": 1}):
        frame.to_parquet(path, **options)
        assert by_id(load_scores(path)) == expected
    for column, value, words in (
        ("score", ["high", "low"], "column score is"),
        ("sample_id", [1.5, 2.5], "column sample_id is double"),
        ("sample_id", ["a", "a"], "the id 'a' occurs twice"),
        ("sample_id", [3, 3], "repeated"),
        ("sample_id", ["a", None], "position 1 is None"),
    ):
        frame.assign(**{column: value}).to_parquet(path)
        with pytest.raises(RankingError, match=words):
            load_scores(path)
    frame.drop(columns="score").to_parquet(path)
    with pytest.raises(RankingError, match="no column score"):
        load_scores(path)


def test_ids_of_several_pieces_of_a_parquet_file(tmp_path):
    n = 150_000  # more than are read at a time
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sample_id": [f"row-{i}" for i in range(n)], "score": rng.normal(size=n)})
    frame.to_parquet(tmp_path / "s.parquet")
    ranking = load_scores(tmp_path / "s.parquet")
    assert ranking.sample_ids.tolist() == frame.sample_id.tolist()
    assert ranking.scores.tolist() == frame.score.tolist()


def test_parquet_needs_an_engine_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "s.parquet").write_text("")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RankingError, match="pip install pyarrow"):
        load_scores(tmp_path / "s.parquet")


def test_a_real_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"sample_id": ["b", "a"], "score": pd.array([1, None], "Int64")})
    frame.to_parquet(tmp_path / "s.parquet")
    found = by_id(load_scores(tmp_path / "s.parquet"))
    assert found["b"] == 1.0
    assert math.isnan(found["a"])
    (tmp_path / "s.parquet").write_bytes(b"no parquet")
    with pytest.raises(RankingError, match="cannot be read as Parquet"):
        load_scores(tmp_path / "s.parquet")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.txt", "1 2 3", "unknown kind"),
        ("s.csv", "", "needs the columns"),
        ("s.csv", "sample_id,score\n", "no samples"),
        ("s.csv", "sample_id,score\na,high\n", "line 2: score 'high'"),
        ("s.csv", "sample_id,score\na,1\na,2\n", "second time"),
        ("s.json", "", "cannot be read as JSON"),
        ("s.json", '{"a": 1', "cannot be read as JSON"),
        ("s.json", "[" * 100_000, "cannot be read as JSON"),
        ("s.json", '{"a": 1, "a": 2}', "twice"),
        ("s.json", {}, "expected"),
        ("s.json", [], "expected"),
        ("s.json", 3, "expected"),
        ("s.json", {"a": "0.5"}, "'a' has '0.5'"),
        ("s.json", {"a": []}, r"'a' has \[\]"),
        ("s.json", {"a": True}, "'a' has True"),
        ("s.json", {"a": {"score": 1}}, "expected a number"),
        ("s.json", '{"a": 1' + "0" * 400 + "}", "expected a number"),
        ("s.json", [[1, 2], [3]], "different lengths"),
        ("s.json", [[1, 2], 3], "different lengths"),
        ("s.json", [1, "x"], "row 0"),
        ("s.npy", [["a", "b"]], "expected scores"),
        ("s.npy", [1 + 2j], "expected scores"),
        ("s.npy", 3.0, "expected scores"),
        ("s.npy", [], "s.npy"),
        ("s.npy", np.zeros((0, 3)), "s.npy"),
        ("s.npy", np.zeros((2, 2, 2)), "shape .2, 2, 2."),
        ("s.pt", {"scores": torch.ones(2)}, "holds a dict"),
        ("s.pt", [1.0, 2.0], "holds a list"),
        ("s.pt", torch.tensor([1 + 2j]), "real numbers"),
        ("s.pt", torch.eye(3).to_sparse(), "dense tensor"),
        ("s.pt", torch.zeros(1).expand(10**6, 10**6), "expanded"),
        ("s.pt", torch.zeros(0), "expected scores"),
        ("s.pt", torch.zeros(2, 3, 4), "expected scores"),
    ],
)
def test_what_is_refused(tmp_path, name, content, words):
    path = write(tmp_path / name, content)
    with pytest.raises(RankingError, match=words) as error:
        load_scores(path)
    assert name in str(error.value)


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("name", ["s.npy", "s.pt"])
def test_nothing_in_a_file_is_executed(tmp_path, name, capsys):
    path = tmp_path / name
    for content in (
        pickle.dumps(Hostile(), protocol=2),
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04 not an archive",
    ):
        path.write_bytes(content)
        with pytest.raises(RankingError, match="cannot be read as"):
            load_scores(path)
    if name == "s.npy":
        np.save(path, np.array([Hostile()]), allow_pickle=True)
    else:
        torch.save(Hostile(), path)
    with pytest.raises(RankingError, match="cannot be read as"):
        load_scores(path)
    assert "executed" not in capsys.readouterr().out


def test_damaged_arrays(tmp_path):
    path = write(tmp_path / "s.npy", np.zeros((4, 100)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RankingError, match="cannot be read as an array"):
        load_scores(path)
    # A header that claims a terabyte costs no memory.
    header = (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (137438953472,), }".ljust(117) + "\n"
    )
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(RankingError, match="cannot be read as an array"):
        load_scores(path)
    np.savez(tmp_path / "s.npz", np.zeros(2))
    (tmp_path / "s.npz").replace(path)
    with pytest.raises(RankingError, match=r"s\.npy"):
        load_scores(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(RankingError, match="no such file"):
        load_scores(tmp_path / "no.csv")
    with pytest.raises(RankingError, match=r"no ranking\.csv in this folder"):
        load_scores(tmp_path)


@settings(deadline=None, max_examples=40)
@given(text=st.text(max_size=60), suffix=st.sampled_from([".csv", ".json", ".npy", ".pt"]))
def test_any_text_gives_scores_or_one_kind_of_error(tmp_path_factory, text, suffix):
    path = tmp_path_factory.mktemp("any") / f"s{suffix}"
    path.write_text(text, encoding="utf-8", errors="replace")
    with suppress(RankingError):
        assert len(load_scores(path)) > 0
