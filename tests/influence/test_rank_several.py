"""Several methods on one store, whole or in part, against each method on its own."""

import numpy as np
import pytest
from fake_store import FakeStore

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.part_of_store import PartOfStore
from influcoder_lightning.influence.rank_several import rank_by_several
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import rank

ALL = ["cosine", "fisher", "tracin", "self", "encoder", "loss", "length", "tfidf", "random"]


def rows(store):
    ids = dict.fromkeys(store.sample_ids.tolist())
    return [{"prompt": f"question {i}", "response": "yes " * (i % 5 + 1), "id": i} for i in ids]


def test_every_method_is_the_method_itself_and_the_main_one_is_taken_as_it_is():
    store = FakeStore()
    data = rows(store)
    main = rank(store, "cosine")
    found = rank_by_several(store, main, data)
    assert list(found.rankings) == ALL
    assert found.rankings["cosine"] is main
    assert found.left_out == {}
    assert found.n_used == found.n_samples == len(main)
    for name in ALL[1:]:
        alone = rank(store, name, data=data)
        np.testing.assert_array_equal(found.rankings[name].scores, alone.scores)


def test_what_does_not_apply_is_left_out_with_its_reason():
    store = FakeStore(m=0, tower=False)
    found = rank_by_several(store, rank(store, "self"))
    assert list(found.rankings) == ["self", "loss", "length", "random"]
    assert "the store has none" in found.left_out["cosine"]
    assert "text is not known" in found.left_out["encoder"]
    with_text = rank_by_several(store, rank(store, "self"), rows(store))
    assert "tower" in with_text.left_out["encoder"]


def test_a_method_of_the_users_own_comes_first():
    store = FakeStore()
    own = Ranking(np.unique(store.sample_ids), np.arange(len(np.unique(store.sample_ids))) * 1.0)
    found = rank_by_several(store, own.described("mine", {}), rows(store))
    assert next(iter(found.rankings)) == "mine"
    assert "cosine" in found.rankings


@pytest.mark.parametrize("string_ids", [False, True])
def test_of_a_large_pool_a_seeded_part_is_ranked(monkeypatch, string_ids):
    monkeypatch.setattr("influcoder_lightning.influence.rank_several._FEWEST", 30)
    store = FakeStore(n_rows=400, string_ids=string_ids)
    main = rank(store, "cosine")
    data = rows(FakeStore(n_rows=400)) if not string_ids else []
    first = rank_by_several(store, main, data, samples=30, encoded=10)
    again = rank_by_several(store, main, data, samples=30, encoded=10)
    assert first.n_used == 30 < first.n_samples == len(main)
    for name, ranking in first.rankings.items():
        np.testing.assert_array_equal(ranking.scores, again.rankings[name].scores)
        assert len(ranking) == (10 if name == "encoder" else 30)
    if data:
        assert list(first.rankings) == ALL
    # A score by its own rows alone is that of the whole store.
    for name in ("tracin", "self", "loss"):
        whole = rank(store, name)
        expected = dict(zip(whole.sample_ids.tolist(), whole.scores.tolist(), strict=True))
        part = first.rankings[name]
        for sample, score in zip(part.sample_ids.tolist(), part.scores.tolist(), strict=True):
            assert score == pytest.approx(expected[sample])


def test_a_part_is_the_store_where_all_rows_are_kept():
    store = FakeStore(n_rows=50)
    columns = [*store.column_names()]
    part = PartOfStore(store, np.ones(50, dtype=bool), columns)
    for name in ("fisher", "cosine"):
        whole, same = rank(store, name), rank(part, name)
        np.testing.assert_array_equal(whole.scores, same.scores)
    with pytest.raises(RankingError, match="no row"):
        PartOfStore(store, np.zeros(50, dtype=bool), columns)
