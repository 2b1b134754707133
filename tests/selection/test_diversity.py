"""No near-copies: against a slow greedy in plain Python, and across tower versions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import Ranking
from influcoder_lightning.errors import RankingError
from influcoder_lightning.selection import diversity
from influcoder_lightning.selection.diversity import SampleCodes
from influcoder_lightning.selection.selection import select


def cosine(a, b):
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def slow_greedy(pool, limit):
    """Ids from best to worst without near-copies. `pool`: (id, score, code)."""
    taken = []
    scored = [sample for sample in pool if not math.isnan(sample[1])]
    for name, _, code in sorted(scored, key=lambda sample: -sample[1]):
        if all(cosine(code, other) <= limit for _, other in taken):
            taken.append((name, code))
    return [name for name, _ in taken]


# Whole numbers, so that cosines are either equal or well apart; repeats and zeros are common.
codes_of_pools = st.lists(
    st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=30
)
limits = st.sampled_from([0.05, 0.33, 0.61, 0.83, 0.951, 0.999])


@given(codes_of_pools, limits, st.randoms(), st.data())
def test_equals_the_slow_greedy(codes, limit, chance, data):
    scores = [chance.choice([math.nan, chance.random()]) for _ in codes]
    pool = [(f"s{i}", scores[i], code) for i, code in enumerate(codes)]
    ranking = Ranking([name for name, _, _ in pool], scores)
    expected = slow_greedy(pool, limit)
    k = data.draw(st.integers(1, len(codes)))
    options = {"k": k, "max_similarity": limit, "codes": np.array(codes)}
    if k > ranking.n_scored:
        with pytest.raises(RankingError, match="does not fit"):
            select(ranking, "diverse", **options)
    elif k > len(expected):
        with pytest.raises(RankingError, match=f"only {len(expected)} of {ranking.n_scored} "):
            select(ranking, "diverse", **options)
    else:
        assert select(ranking, "diverse", **options) == expected[:k]


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 0.99))
def test_no_two_are_closer_and_nobody_is_left_out_without_a_reason(seed, limit):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(40, 4)).astype(np.float16)
    ranking = Ranking(np.arange(40), rng.random(40))
    k = len(slow_greedy(zip(range(40), ranking.scores, codes.astype(float), strict=True), limit))
    chosen = select(ranking, "diverse", k=k, max_similarity=limit, codes=codes)
    unit = codes.astype(float) / np.linalg.norm(codes.astype(float), axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert np.triu(cosines[np.ix_(chosen, chosen)], 1).max(initial=-1) <= limit + 1e-6
    for other in set(range(40)) - set(chosen):
        better = [i for i in chosen if ranking.scores[i] >= ranking.scores[other]]
        assert max(cosines[other, better]) > limit - 1e-6


def test_many_blocks_are_as_one(monkeypatch):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(300, 3))
    ranking = Ranking(np.arange(300), rng.random(300))
    whole = select(ranking, "diverse", k=50, codes=codes)
    asked = []

    def fetch(ids):
        asked.append(ids)
        return codes[ids]

    monkeypatch.setattr(diversity, "_FETCHED", 50)
    monkeypatch.setattr(diversity, "_COMPARED", 7)
    monkeypatch.setattr(diversity, "_CHOSEN", 11)
    assert select(ranking, "diverse", k=50, codes=fetch) == whole
    assert np.concatenate(asked).tolist() == ranking.top_k(sum(map(len, asked)))
    assert len(asked) == -(-int(ranking.ranks[whole[-1]]) // 50)  # no more than it takes
    assert max(cosine(codes[a], codes[b]) for a in whole for b in whole if a != b) <= 0.95


def test_at_one_all_pass_and_copies_of_one_sample_do_not():
    rng = np.random.default_rng(1)
    codes = np.repeat(rng.normal(size=(5, 7)), 20, axis=0)
    ranking = Ranking(np.arange(100), rng.random(100))
    options = {"codes": codes.astype(np.float16)}
    assert select(ranking, "diverse", k=100, max_similarity=1, **options) == ranking.top_k(100)
    chosen = select(ranking, "diverse", k=5, **options)
    assert sorted(i // 20 for i in chosen) == [0, 1, 2, 3, 4]
    for i in chosen:
        assert ranking.scores[i] == ranking.scores[i // 20 * 20 :][:20].max()
    with pytest.raises(RankingError, match=r"only 5 of 100 .* raise max_similarity, or lower k"):
        select(ranking, "diverse", k=6, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs codes"),
        ({"codes": np.ones((2, 2))}, r"shape \(2, 2\); give real numbers \[3, d\]"),
        ({"codes": np.ones(3)}, "shape"),
        ({"codes": [["a"], ["b"], ["c"]]}, "real numbers"),
        ({"codes": np.array([[1, np.nan], [1, 0], [0, 1]])}, "not finite at the positions"),
        ({"codes": np.eye(3), "max_similarity": 1.01}, "no cosine from 0 to 1.*0.95"),
        ({"codes": np.eye(3), "max_similarity": math.nan}, "no cosine"),
        ({"codes": np.eye(3), "max_similarity": True}, "no cosine"),
        ({"codes": np.eye(3), "k": 4}, "k=4 does not fit 3 scored samples"),
        ({"codes": np.eye(3), "quota": 2}, "does not use quota"),
    ],
)
def test_what_cannot_be_selected(arguments, message):
    with pytest.raises(RankingError, match=message):
        select(Ranking([0, 1, 2], [3, 2, 1]), "diverse", **{"k": 2, **arguments})


class VersionedStore:
    """Rows in the code spaces of several towers that lose nothing: orthogonal matrices."""

    path = "somewhere"

    def __init__(self, sketches, ids, versions, seed=0):
        rng = np.random.default_rng(seed)
        width = sketches.shape[1]
        self.towers = {v: np.linalg.qr(rng.normal(size=(width, width)))[0] for v in set(versions)}
        codes = [
            self.towers[v] @ s / np.linalg.norm(s) for v, s in zip(versions, sketches, strict=True)
        ]
        self.sample_ids = np.array(ids)
        self.columns = {"code": np.array(codes, np.float16), "tower_version": np.array(versions)}

    def column(self, name):
        return self.columns[name]

    def blocks(self, names, block_rows):
        for start in range(0, len(self.sample_ids), block_rows):
            rows = slice(start, start + block_rows)
            yield rows, {name: self.columns[name][rows] for name in names}

    def gradient_tower(self, version):
        import torch

        return SimpleNamespace(versions=[torch.tensor(self.towers[version], dtype=torch.float32)])


def test_codes_of_several_towers_compare_as_their_sketches_do():
    rng = np.random.default_rng(2)
    sketches = rng.normal(size=(30, 12))
    ids = [f"s{i % 20}" for i in range(30)]  # half of the samples have two rows
    versions = [*[0] * 11, *[1] * 9, *[2] * 10]
    sample_codes = SampleCodes(VersionedStore(sketches, ids, versions), block_rows=7)
    asked = np.array(["s3", "s15", "s19", "s0"], dtype=object)
    codes = sample_codes(asked)
    unit = sketches / np.linalg.norm(sketches, axis=1, keepdims=True)
    means = np.array([unit[3] + unit[23], unit[15], unit[19], unit[0] + unit[20]])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(codes @ codes.T, means @ means.T, atol=2e-3)
    with pytest.raises(RankingError, match="1 of 2 ranked samples have no code in somewhere"):
        sample_codes(np.array(["s3", "t"], dtype=object))
