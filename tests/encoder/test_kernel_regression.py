"""Kernel regression, the text kernel and the forward tower against slow references."""

import numpy as np
import pytest
from test_text_tower import texts

from influcoder_lightning.encoder import kernel_regression
from influcoder_lightning.encoder.forward_tower import ForwardTower
from influcoder_lightning.encoder.kernel_regression import KernelRegression
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.encoder.text_kernel import TextKernel


def problem(n=40, d=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, (x @ rng.normal(size=(6, d)) + 0.1 * rng.normal(size=(n, d))).astype(np.float32)


def test_leave_one_out_equals_leaving_one_out():
    x, y = problem()
    gram = x @ x.T
    found = kernel_regression._leave_one_out(gram, y.astype(float), 0.3)
    for i in range(len(x)):
        rest = [j for j in range(len(x)) if j != i]
        inner = gram[np.ix_(rest, rest)] + 0.3 * np.eye(len(rest))
        expected = gram[i, rest] @ np.linalg.solve(inner, y[rest])
        np.testing.assert_allclose(found[i], expected, atol=1e-8)


def test_the_prediction_is_ridge_regression_on_the_features():
    x, y = problem()
    regression = KernelRegression.fit(x @ x.T, y, penalties=[0.5])
    weights = np.linalg.solve(x.T @ x + 0.5 * np.eye(6), x.T @ y)
    new = problem(seed=1)[0]
    np.testing.assert_allclose(regression.predict(new @ x.T), new @ weights, atol=1e-5)


def test_the_penalty_fits_the_noise():
    x, y = problem(n=60)
    noise = np.random.default_rng(1).normal(size=y.shape)
    assert KernelRegression.fit(x @ x.T, y).penalty < KernelRegression.fit(x @ x.T, noise).penalty


def test_confidence_is_calibrated_and_grows_with_likeness():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20))
    scale = rng.choice([0.2, 1.0], size=(300, 1))  # weakly expressed inputs say little
    x = scale * x / np.linalg.norm(x, axis=1, keepdims=True)
    truth = x @ rng.normal(size=(20, 8)) + 0.3 * rng.normal(size=(300, 8))
    seen, new = slice(0, 200), slice(200, 300)
    regression = KernelRegression.fit(x[seen] @ x[seen].T, truth[seen])
    predicted = regression.predict(x[new] @ x[seen].T)
    sure = regression.confidence(predicted)
    norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(truth[new], axis=1)
    cosines = (predicted * truth[new]).sum(1) / norms
    assert ((sure >= 0) & (sure <= 1)).all()
    assert abs(sure.mean() - cosines.mean()) < 0.1
    more = sure >= np.median(sure)
    assert cosines[more].mean() > cosines[~more].mean() + 0.1


def test_the_text_kernel_is_an_inner_product_of_unit_vectors():
    rows = texts(30)
    kernel = TextKernel.of(rows)
    features = kernel.features(rows)
    gram = kernel(features, features)
    np.testing.assert_allclose(np.diag(gram), 1, atol=2e-3)
    assert np.linalg.eigvalsh(gram.astype(float)).min() > -1e-3
    same = [{"prompt": rows[0]["prompt"], "response": rows[0]["response"]}]
    np.testing.assert_allclose(kernel(kernel.features(same), features)[0], gram[0], atol=1e-6)


def test_the_bags_hold_what_the_docstring_says():
    from influcoder_lightning.encoder.text_kernel import _response_features

    assert _response_features(["a", "b"]) == [
        ["a", "b", "<end>"],
        ["<1>|a", "a|b", "b|<end>"],
        ["<2>|<1>|a", "<1>|a|b", "a|b|<end>"],
        ["<2>||a", "<1>||b", "a||<end>"],
        ["1:a", "2:b", "2:<end>"],
        ["1:<1>|a", "2:a|b", "2:b|<end>"],
    ]


def test_a_tokenizer_is_saved_with_the_head(tmp_path):
    from influcoder_lightning.data.tiny_model import build_tokenizer

    rows = texts(40)
    tokenizer = build_tokenizer([r["response"] for r in rows], 262, tmp_path / "tokenizer")
    codes = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    head = TextHead.fit(rows, codes, tokenizer=tokenizer)
    head.save(tmp_path / "head")
    loaded = TextHead.load(tmp_path / "head")
    new = texts(5, seed=3)
    np.testing.assert_array_equal(loaded.predict(new), head.predict(new))
    np.testing.assert_array_equal(loaded.confidence(codes), head.confidence(codes))
    plain = TextHead.fit(rows, codes)
    assert not np.allclose(plain.predict(new), head.predict(new))


def test_the_forward_tower_learns_from_late_gradients_and_texts():
    rng = np.random.default_rng(0)
    rows = texts(200)
    late = rng.normal(size=(200, 5)).astype(np.float32)
    codes = np.concatenate([late / np.linalg.norm(late, axis=1, keepdims=True),
                            [[r["response"].count("red") - 1] for r in rows]], 1)  # fmt: skip
    tower = ForwardTower.fit(3 * late[:150], rows[:150], codes[:150].astype(np.float32))
    expected, sure = tower.expect(late[150:], rows[150:])
    assert np.corrcoef(expected[:, 0], codes[150:, 0])[0, 1] > 0.95
    assert sure.shape == (50,)
    text_only = TextHead.fit(rows[:150], codes[:150].astype(np.float32)).predict(rows[150:])
    assert np.corrcoef(text_only[:, 0], codes[150:, 0])[0, 1] < 0.5


@pytest.mark.parametrize("n", [5, 1700])
def test_any_number_of_rows_can_be_fitted(n):
    x, y = problem(n=n)
    regression = KernelRegression.fit((x @ x.T).astype(np.float32), y)
    assert np.isfinite(regression.predict(x @ x.T)).all()
