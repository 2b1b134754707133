import math

import numpy as np
import pytest
from fake_store import FakeStore

from influcoder_lightning import Ranking, available_methods, rank, register
from influcoder_lightning.errors import RankingError

ROWS = [
    {"id": "a", "prompt": "what is question one", "response": "answer one"},
    {"id": "b", "prompt": "the weather", "response": "is fine"},
    {"id": "c", "prompt": "what is question two", "response": "answer"},
    {"id": "d", "prompt": "", "response": "zebra"},
]


def first_seen(ids):
    out = []
    for sample_id in ids.tolist():
        if sample_id not in out:
            out.append(sample_id)
    return out


def cosine_64(a, b):
    a, b = [float(x) for x in a], [float(x) for x in b]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def oracle(store, per_row, mean, query_places=None):
    """[M, N] by plain loops: per_row(row, window, query) combined over a sample's rows."""
    windows = store.records()["window"].tolist()
    places = range(len(store.query_ids)) if query_places is None else query_places
    table = []
    for query in places:
        line = []
        for sample_id in first_seen(store.sample_ids):
            rows = [r for r, other in enumerate(store.sample_ids.tolist()) if other == sample_id]
            values = [per_row(r, windows[r], query) for r in rows]
            line.append(sum(values) / (len(values) if mean else 1))
        table.append(line)
    return np.array(table)


@pytest.mark.parametrize("block_rows", [1, 7, 8192])
@pytest.mark.parametrize("string_ids", [False, True])
def test_cosine_is_the_mean_over_rows_and_queries_of_own_window(block_rows, string_ids):
    store = FakeStore(string_ids=string_ids)
    ranking = rank(store, block_rows=block_rows)
    expected = oracle(
        store,
        lambda r, w, q: cosine_64(store._codes[r], store._query_codes[w][q]),
        mean=True,
    )
    assert ranking.sample_ids.tolist() == first_seen(store.sample_ids)
    np.testing.assert_allclose(ranking.per_query, expected, atol=1e-6)
    np.testing.assert_allclose(ranking.scores, expected.mean(axis=0), atol=1e-6)
    assert ranking.query_ids.tolist() == store.query_ids.tolist()
    assert ranking.method == "cosine"
    assert ranking.metadata["n_rows"] == 40
    assert ranking.metadata["store"] == "somewhere/influence"


def test_codes_are_read_block_by_block():
    store = FakeStore(n_rows=25)
    rank(store, block_rows=10)
    assert [(s.start, s.stop) for s in store.code_slices] == [(0, 10), (10, 20), (20, 25)]


def test_more_windows_than_are_kept():
    store = FakeStore(n_rows=60, n_windows=9)
    expected = oracle(
        store, lambda r, w, q: cosine_64(store._codes[r], store._query_codes[w][q]), mean=True
    )
    np.testing.assert_allclose(rank(store, block_rows=3).per_query, expected, atol=1e-6)


def test_zero_codes_score_zero():
    store = FakeStore()
    store._codes[:] = 0
    assert not rank(store).scores.any()


def test_codes_that_are_not_finite_are_refused():
    store = FakeStore()
    store._codes[3, 0] = np.nan
    with pytest.raises(RankingError, match=f"1 samples.*{store.sample_ids[3]}"):
        rank(store)


@pytest.mark.parametrize("block_rows", [4, 8192])
def test_tracin_sums_learning_rate_times_dot_product(block_rows):
    store = FakeStore()
    records = store.records()
    expected = oracle(
        store,
        lambda r, w, q: (
            records["learning_rate"][r]
            * records["grad_norm"][r]
            * store._query_norms[w][q]
            * cosine_64(store._codes[r], store._query_codes[w][q])
        ),
        mean=False,
    )
    ranking = rank(store, "tracin", block_rows=block_rows)
    np.testing.assert_allclose(ranking.per_query, expected, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(ranking.scores, expected.mean(axis=0), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("block_rows", [4, 8192])
def test_projected_cosine_multiplies_cosines_by_both_lengths(block_rows):
    store = FakeStore()
    expected = oracle(
        store,
        lambda r, w, q: (
            store.records()["code_length"][r]
            * store._query_norms[w][q]
            / 4
            * cosine_64(store._codes[r], store._query_codes[w][q])
        ),
        mean=True,
    )
    ranking = rank(store, "projected_cosine", block_rows=block_rows)
    np.testing.assert_allclose(ranking.per_query, expected, rtol=1e-4, atol=1e-8)
    del store._records["code_length"]
    with pytest.raises(RankingError, match="value again, or use 'cosine'"):
        rank(store, "projected_cosine")


def test_tracin_of_chosen_queries_takes_their_norms():
    store = FakeStore()
    full = rank(store, "tracin").per_query
    some = rank(store, "tracin", queries=["q3", "q1"])
    np.testing.assert_array_equal(some.per_query, full[[3, 1]])


@pytest.mark.parametrize("rate", [0.0, np.nan])
def test_tracin_without_learning_rates_names_cosine(rate):
    store = FakeStore()
    store._records["learning_rate"] = rate
    with pytest.raises(RankingError, match=r"learning rate.*use 'cosine'"):
        rank(store, "tracin")


def test_chosen_queries_come_in_the_order_asked():
    store = FakeStore()
    full = rank(store)
    some = rank(store, queries=["q4", "q0"])
    assert some.query_ids.tolist() == ["q4", "q0"]
    np.testing.assert_allclose(some.per_query, full.per_query[[4, 0]], atol=1e-6)
    np.testing.assert_allclose(some.scores, full.per_query[[4, 0]].mean(axis=0), atol=1e-6)


def test_a_query_id_that_two_queries_share_means_both():
    store = FakeStore()
    store.query_ids[1] = "q0"
    assert rank(store, queries=["q0"]).per_query.shape[0] == 2


def test_query_ids_are_compared_as_text():
    store = FakeStore()
    store.query_ids = np.arange(5)
    assert rank(store, queries=["3"]).query_ids.tolist() == [3]


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (["q0", "nope"], r"1 of 2 query ids.*'nope'"),
        ([], "empty list of queries"),
        (["q0", "q0"], "named more than once.*q0"),
        ([{"prompt": "p", "response": "r"}], "store.add_queries"),
        (["q0", {"prompt": "p", "response": "r"}], "mixes ids and rows"),
    ],
)
def test_queries_that_do_not_work(queries, message):
    with pytest.raises(RankingError, match=message):
        rank(FakeStore(), queries=queries)


@pytest.mark.parametrize("method", ["cosine", "tracin"])
def test_a_store_without_queries_names_the_ways_out(method):
    with pytest.raises(RankingError, match=r"query_dataloader=.*store.add_queries"):
        rank(FakeStore(m=0), method)


@pytest.mark.parametrize(
    ("method", "column", "function"),
    [
        ("self", "grad_norm", lambda x: x * x),
        ("loss", "loss", lambda x: x),
        ("length", "n_tokens", lambda x: x),
    ],
)
@pytest.mark.parametrize("m", [0, 5])
def test_methods_on_records_are_means_over_rows(method, column, function, m):
    store = FakeStore(m=m)
    values = store.records()[column].tolist()
    ranking = rank(store, method)
    for sample_id, score in zip(ranking.sample_ids.tolist(), ranking.scores, strict=True):
        own = [function(v) for v, s in zip(values, store.sample_ids, strict=True) if s == sample_id]
        assert score == pytest.approx(sum(own) / len(own))
    assert ranking.top_k(1) == [ranking.sample_ids[np.argmax(ranking.scores)]]


def test_loss_uses_the_rows_that_have_one():
    store = FakeStore()
    target = store.sample_ids[0]
    rows = np.flatnonzero(store.sample_ids == target)
    assert len(rows) > 1
    store._records.loc[rows[1:], "loss"] = np.nan
    ranking = rank(store, "loss")
    assert ranking.scores[0] == pytest.approx(store.records()["loss"][0])
    store._records.loc[rows, "loss"] = np.nan
    ranking = rank(store, "loss")
    assert math.isnan(ranking.scores[0])
    assert ranking.ranks[0] == len(ranking)
    assert ranking.metadata["rows_without_loss"] == len(rows)
    assert ranking.metadata["samples_without_loss"] == 1


def test_loss_without_any_names_the_way_out():
    store = FakeStore()
    store._records["loss"] = np.nan
    with pytest.raises(RankingError, match="extract_features"):
        rank(store, "loss")


def test_self_refuses_norms_that_overflowed():
    store = FakeStore()
    store._records.loc[0, "grad_norm"] = np.inf
    with pytest.raises(RankingError, match=r"1 rows.*not finite"):
        rank(store, "self")


def test_random_is_a_seeded_permutation_without_ties():
    store = FakeStore()
    first, again, other = (rank(store, "random", seed=seed) for seed in (1, 1, 2))
    assert first.scores.tolist() == again.scores.tolist() != other.scores.tolist()
    assert len(set(first.scores.tolist())) == len(first)
    assert ((first.scores > 0) & (first.scores < 1)).all()


def tfidf_oracle(texts, queries):
    """Smoothed TF-IDF with L2 norm, as in sklearn's documentation, by plain loops."""
    documents = [
        [w for w in t.lower().replace("\n", " ").split() if len(w) > 1] for t in texts + queries
    ]
    words = {w for d in documents for w in d}
    idf = {
        w: math.log((1 + len(documents)) / (1 + sum(w in d for d in documents))) + 1 for w in words
    }
    weighted = [{w: d.count(w) * idf[w] for w in d} for d in documents]
    normed = []
    for vector in weighted:
        norm = math.sqrt(sum(v * v for v in vector.values())) or 1
        normed.append({w: v / norm for w, v in vector.items()})
    pool, asked = normed[: len(texts)], normed[len(texts) :]
    return np.array([[sum(v * q.get(w, 0) for w, v in p.items()) for p in pool] for q in asked])


@pytest.mark.parametrize("block_rows", [1, 3, 8192])
def test_tfidf_with_the_texts_of_the_store(block_rows):
    store = FakeStore()
    ranking = rank(store, "tfidf", data=ROWS, block_rows=block_rows)

    def text(row):
        return row["prompt"] + "\n" + row["response"]

    expected = tfidf_oracle([text(r) for r in ROWS], [text(r) for r in store.texts])
    np.testing.assert_allclose(ranking.per_query, expected, atol=1e-6)
    np.testing.assert_allclose(ranking.scores, expected.mean(axis=0), atol=1e-6)
    assert ranking.sample_ids.tolist() == ["a", "b", "c", "d"]


def test_tfidf_needs_no_store_when_queries_are_rows():
    ranking = rank(None, "tfidf", data=ROWS, queries=iter([ROWS[1]]))
    assert ranking.top_k(1) == ["b"]
    assert ranking.scores[1] == pytest.approx(1)
    assert ranking.query_ids.tolist() == ["b"]


def test_rows_without_id_are_named_by_position_and_equal_ids_averaged():
    plain = [{"prompt": r["prompt"], "response": r["response"]} for r in ROWS]
    ranking = rank(None, "tfidf", data=plain, queries=[ROWS[0]])
    assert ranking.sample_ids.tolist() == [0, 1, 2, 3]
    twice = rank(None, "tfidf", data=[*plain, {**plain[0], "id": 3}], queries=[ROWS[0]])
    assert twice.sample_ids.tolist() == [0, 1, 2, 3]
    assert twice.scores[3] == pytest.approx(0.5, abs=1e-6)


def test_tfidf_without_words():
    empty = [{"prompt": "", "response": "!"}]
    with pytest.raises(RankingError, match="no word"):
        rank(None, "tfidf", data=empty, queries=empty)


@pytest.mark.parametrize("method", ["tfidf", "encoder"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "pass data="),
        ([], "data is empty"),
        (["text"], "row 0 is a str"),
        ([ROWS[0], {"prompt": "p"}], "row 1 has response=None"),
        ([{**ROWS[0], "id": 1.5}], "1.5"),
    ],
)
def test_data_that_does_not_work(method, data, message):
    with pytest.raises(RankingError, match=message):
        rank(FakeStore(), method, data=data)


def test_tfidf_names_the_way_out_without_query_texts():
    store = FakeStore()
    store.texts = None
    with pytest.raises(RankingError, match="pass queries="):
        rank(store, "tfidf", data=ROWS)


@pytest.mark.parametrize("block_rows", [1, 3, 1024])
def test_encoder_is_text_against_query_codes_at_the_end(block_rows):
    store = FakeStore()
    ranking = rank(store, "encoder", data=ROWS, queries=["q2", "q0"], block_rows=block_rows)
    assert max(store._tower.batches) <= block_rows
    text = store._tower.encode(ROWS)
    expected = [[cosine_64(t, store._end_codes[q]) for t in text] for q in (2, 0)]
    np.testing.assert_allclose(ranking.per_query, expected, atol=1e-6)
    np.testing.assert_allclose(ranking.scores, np.mean(expected, axis=0), atol=1e-6)


def test_encoder_takes_queries_as_text():
    ranking = rank(FakeStore(), "encoder", data=ROWS, queries=[ROWS[2]])
    assert ranking.top_k(1) == ["c"]


def test_encoder_without_a_text_tower():
    with pytest.raises(RankingError, match=r"text tower.*'cosine'"):
        rank(FakeStore(tower=False), "encoder", data=ROWS)


def test_encoder_of_another_width():
    store = FakeStore()
    store._tower.width = 3
    with pytest.raises(RankingError, match="different runs"):
        rank(store, "encoder", data=ROWS)


@pytest.mark.parametrize(("method", "take"), [("cosine", "window"), ("encoder", "end of fit")])
def test_queries_that_were_taken_only_sometimes(method, take):
    store = FakeStore()
    store._query_codes = store._query_codes[:, :3]
    store._end_codes = store._end_codes[:3]
    with pytest.raises(RankingError, match=rf"3 of 5 queries at .*{take}"):
        rank(store, method, data=ROWS)


def test_unknown_methods_and_options_list_the_known():
    with pytest.raises(RankingError, match=r"did you mean 'cosine'.*encoder.*tracin"):
        rank(FakeStore(), "cosin")
    with pytest.raises(RankingError, match=r"no option sed; its options: seed"):
        rank(FakeStore(), "random", sed=1)
    with pytest.raises(RankingError, match="works on a store"):
        rank(None, "cosine")


def test_every_method_is_available():
    built_in = {"cosine", "projected_cosine", "tracin", "self", "loss", "length", "random"}
    built_in |= {"tfidf", "bm25", "rds", "encoder", "icp"}
    assert built_in <= set(available_methods())


def test_a_registered_method_is_found_and_cannot_take_a_name():
    @register("constant")
    def constant(request, *, value=1.0):
        ids = request.require_store().query_ids
        return Ranking(ids, [value] * len(ids))

    ranking = rank(FakeStore(), "constant", value=3.0)
    assert ranking.scores.tolist() == [3.0] * 5
    assert ranking.metadata["options"] == {"value": 3.0}
    for name in ("constant", "cosine"):
        with pytest.raises(RankingError, match="exists already"):
            register(name)(lambda request: None)
