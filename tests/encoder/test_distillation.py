"""The published objective on a tiny problem."""

import copy
from itertools import pairwise

import numpy as np
import torch
from test_text_tower import texts

from influcoder_lightning.encoder.distillation import (
    Distillation,
    DistillationSettings,
    _linear,
)


def test_distillation_learns_to_order_and_calls_back(sentence_encoder):
    encoder = copy.deepcopy(sentence_encoder)
    pool, queries = texts(32), texts(6, seed=5)
    count = lambda rows: np.array([r["response"].count("1") for r in rows])  # noqa: E731
    targets = -np.abs(count(queries)[:, None] - count(pool)[None]) / 4.0
    settings = DistillationSettings(epochs=6, queries=4, candidates=8, lr=3e-3, bf16=False)
    distillation = Distillation(encoder, settings)
    state = torch.get_rng_state()

    def rho():
        scores = distillation.scores(queries, pool)
        return np.corrcoef(scores.ravel(), targets.ravel())[0, 1]

    before, seen = rho(), []
    distillation.fit(queries, pool, targets, seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert rho() > before + 0.2
    assert torch.equal(state, torch.get_rng_state())


def test_queries_carry_the_prefix(sentence_encoder):
    rows = texts(3)
    plain = Distillation(copy.deepcopy(sentence_encoder), DistillationSettings(query_prefix=""))
    with_prefix = Distillation(copy.deepcopy(sentence_encoder), DistillationSettings())
    assert not np.allclose(plain.scores(rows, rows), with_prefix.scores(rows, rows))
    np.testing.assert_allclose(np.diag(plain.scores(rows, rows)), 1, atol=1e-2)


def test_hard_negatives_replace_a_share_of_the_block():
    import random

    hard = np.array([[90, 91, 92], [93, 94, 95]])
    block = Distillation._with_hard(list(range(8)), [0, 1], hard, 4, random.Random(0))
    assert block[:4] == [0, 1, 2, 3]
    assert len(set(block)) == 8
    assert set(block[4:]) <= {90, 91, 92, 93, 94, 95}


def test_the_learning_rate_rises_and_falls():
    rates = [_linear(step, 100, 0.1) for step in range(100)]
    assert (rates[0], rates[9]) == (0.1, 1.0)
    assert rates[-1] < 0.02
    assert all(a >= b for a, b in pairwise(rates[10:]))
