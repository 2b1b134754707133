"""Near-copies: groups against a union-find over all pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning.errors import RankingError
from influcoder_lightning.report.findings import near_copies as duplicates
from influcoder_lightning.report.findings.near_copies import find_near_copies


def by_pairs(codes, similarity):
    """Groups of two or more, as a set of sets, the slow way."""
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    parent = list(range(len(codes)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(codes)):
        for j in range(i):
            if unit[i] @ unit[j] > similarity:
                parent[root(i)] = root(j)
    groups = {}
    for i in range(len(codes)):
        groups.setdefault(root(i), set()).add(i)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


@given(
    n=st.integers(1, 60),
    d=st.integers(1, 4),
    similarity=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    block=st.sampled_from([1, 7, 512]),
    seed=st.integers(0, 2**16),
)
def test_the_groups_are_those_of_all_pairs(n, d, similarity, block, seed):
    codes = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) + 0.01
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        found = find_near_copies(codes, similarity)
    assert {frozenset(group.tolist()) for group in found.groups} == by_pairs(codes, similarity)
    assert found.distinct == n - sum(len(g) - 1 for g in found.groups)


def test_a_chain_is_one_group_and_the_best_comes_first():
    angles = np.deg2rad([0, 90, 10, 180, 20])  # 10 degrees apart: cosine 0.985
    found = find_near_copies(np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.95)
    assert [group.tolist() for group in found.groups] == [[0, 2, 4]]
    assert (found.n, found.in_groups, found.distinct) == (5, 3, 3)


def test_the_line_is_that_of_the_diverse_selection():
    codes = np.random.default_rng(0).normal(size=(80, 3))
    assert find_near_copies(codes, 1.0).groups == []
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    copies = (np.triu(unit @ unit.T, 1) > 0.9).any(axis=0).sum()
    found = find_near_copies(codes, 0.9)
    # Whoever has an earlier near-copy is not the first of its group.
    assert 0 < copies <= found.n - found.distinct


def test_equal_and_empty_codes():
    found = find_near_copies(np.ones((700, 2), dtype=np.float16))
    assert [len(group) for group in found.groups] == [700]
    assert find_near_copies(np.zeros((3, 2))).distinct == 3


def test_what_cannot_be_compared_is_refused(monkeypatch):
    with pytest.raises(RankingError, match="not finite"):
        find_near_copies(np.array([[np.inf, 1.0], [0.0, 1.0]]))
    monkeypatch.setattr(duplicates, "MOST", 2)
    with pytest.raises(RankingError, match="the 2 best at most"):
        find_near_copies(np.ones((3, 2)))
