"""The streaming tower against scipy's SVD of everything at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from influcoder_lightning.encoder.gradient_tower import (
    GradientTower,
    RandomProjection,
    load_version,
)
from influcoder_lightning.errors import StoreError


def data(n=400, dim=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, dim + 1) ** -1.0
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    return (torch.randn(n, dim, generator=generator) * scales) @ mixing


def cosines(x):
    x = np.asarray(x, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


@pytest.mark.parametrize("block", [7, 50, 400])
def test_it_keeps_the_energy_that_a_full_svd_keeps(block):
    rows = data()
    tower = GradientTower(120, 16)
    for start in range(0, len(rows), block):
        tower.fit(rows[start : start + block])
    normed = rows.double().numpy() / np.linalg.norm(rows, axis=1, keepdims=True)
    _, _, vh = scipy.linalg.svd(normed, full_matrices=False)
    best = ((normed @ vh[:16].T) ** 2).sum(1).mean()
    assert best - 0.01 <= tower.retained(rows) <= best + 1e-4


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 30), dim=st.integers(1, 20), code=st.integers(1, 40), seed=st.integers(0, 9)
)
def test_cosines_survive_wherever_the_code_is_wide_enough(n, dim, code, seed):
    rows = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    tower = GradientTower(dim, code)
    tower.fit(rows)
    tower.freeze()
    codes = tower.encode(rows)
    assert codes.shape == (n, code)
    assert torch.isfinite(codes).all()
    if code >= min(n, dim):
        np.testing.assert_allclose(cosines(codes), cosines(rows), atol=5e-3)


def test_a_learned_code_is_nearly_lossless_where_a_random_one_is_not():
    rows = data(600)
    learned, fixed = GradientTower(120, 32), RandomProjection(120, 32, seed=0)
    learned.fit(rows[:300])
    learned.freeze()
    exact = cosines(rows[300:])
    error = {
        name: np.abs(cosines(tower.encode(rows[300:])) - exact).mean()
        for name, tower in (("learned", learned), ("fixed", fixed))
    }
    assert error["learned"] < 0.2 * error["fixed"]


def test_a_new_basis_stays_close_to_the_last_one():
    rows = data()
    tower = GradientTower(120, 16)
    tower.fit(rows[:200])
    before = tower.basis.clone()
    tower.fit(rows[200:])
    moved = torch.nn.functional.cosine_similarity(before @ rows.T, tower.basis @ rows.T, dim=0)
    assert moved.mean() > 0.95


def test_zero_rows_stay_zero():
    tower = GradientTower(5, 3)
    tower.fit(torch.eye(5)[:2])
    tower.freeze()
    assert torch.equal(tower.encode(torch.zeros(1, 5)), torch.zeros(1, 3))


def test_save_and_load(tmp_path):
    tower = GradientTower(120, 16)
    tower.fit(data())
    tower.save(tmp_path, tower.freeze())
    assert torch.equal(load_version(tmp_path, 0).encode(data(5)), tower.encode(data(5)))
    with pytest.raises(StoreError, match="gradient tower"):
        load_version(tmp_path, 1)


@pytest.mark.parametrize("sizes", [(64, 16), (50, 7), (4096, 8)])
def test_the_random_code_is_the_product_with_the_saved_matrix(sizes, tmp_path):
    sketch_dim, code_dim = sizes
    tower = RandomProjection(sketch_dim, code_dim, seed=3)
    tower.save(tmp_path, 0)
    sketches = torch.randn(5, sketch_dim)
    expected = functional.normalize(sketches, dim=1) @ load_version(tmp_path, 0).versions[0].T
    torch.testing.assert_close(tower.project(sketches), expected)
    torch.testing.assert_close(tower.encode(sketches), functional.normalize(expected, dim=1))


def test_random_codes_keep_inner_products_on_average():
    a = torch.randn(256, generator=torch.Generator().manual_seed(0))
    b = a + torch.randn(256, generator=torch.Generator().manual_seed(1))
    both = torch.stack([a, b])
    products = []
    for seed in range(300):
        x, y = RandomProjection(256, 32, seed).project(both)
        products.append(float(x @ y))
    error = torch.tensor(products).std() / len(products) ** 0.5
    assert abs(sum(products) / 300 - float(functional.cosine_similarity(a, b, 0))) < 4 * error
