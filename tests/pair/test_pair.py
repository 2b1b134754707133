"""Two adapters score as gradients do: against forward-mode derivatives and one-sample autograd."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import loader, tiny_llama, tiny_peft, tokens
from peft import PeftModel
from scipy.stats import spearmanr
from torch.func import functional_call, jvp

from influcoder_lightning.capture.forward import causal_lm_losses
from influcoder_lightning.errors import CaptureError, ConfigError
from influcoder_lightning.pair.compiling import DAMPING, compile_pair
from influcoder_lightning.pair.direction import (
    dot,
    each_gradient,
    fisher_weights,
    length,
    lora_weights,
    weighted_gradient,
)
from influcoder_lightning.pair.folders import write_pair
from influcoder_lightning.pair.norm_model import NormModel
from influcoder_lightning.pair.scores import AdapterPair


def singles(n: int, seed: int) -> list:
    return list(loader(tokens(n, seed=seed), 1))


def flat(direction) -> torch.Tensor:
    return torch.cat([direction[name].flatten() for name in sorted(direction)]).double()


def random_direction(model, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(w.shape, generator=generator) for n, w in lora_weights(model).items()}


def test_the_slope_is_the_derivative_along_the_direction():
    """Forward-mode differentiation has no step, so what is left is rounding and curvature."""
    model = tiny_peft().eval()
    model.get_base_model().set_attn_implementation("eager")  # the others have no forward mode
    direction, samples = random_direction(model), singles(6, 3)
    pair = AdapterPair(model, direction, 1e-3)
    weights = {name: weight.detach() for name, weight in lora_weights(model).items()}
    for sample in samples:

        def loss(changed, sample=sample):
            inputs = {k: sample[k] for k in ("input_ids", "attention_mask")}
            logits = functional_call(model, changed, (), {**inputs, "use_cache": False}).logits
            targets = sample["labels"][0, 1:]
            return torch.nn.functional.cross_entropy(logits[0, :-1].float(), targets)

        value, slope = jvp(loss, (weights,), (direction,))
        found = pair.slopes(sample)
        assert float(found.slope) == pytest.approx(float(slope), rel=2e-2, abs=1e-4)
        assert float(found.loss) == pytest.approx(float(value), rel=1e-3)


def test_shares_of_the_tokens_add_up_to_the_score_and_lie_on_response_tokens():
    model = tiny_peft().eval()
    pair = AdapterPair(model, random_direction(model), 1e-2)
    (batch,) = loader(tokens(5, seed=4), 5)
    found = pair.slopes(batch)
    np.testing.assert_allclose(found.shares.sum(1), found.slope, atol=1e-12)
    assert not found.shares[batch["labels"][:, 1:] == -100].any()
    alone = torch.cat([pair.slopes(one).slope for one in singles(5, 4)])
    np.testing.assert_allclose(alone, found.slope, atol=1e-3)


def test_the_model_is_as_it_was():
    model = tiny_peft().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    AdapterPair(model, random_direction(model), 1e-2).slopes(singles(1, 1)[0])
    assert model.training
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_a_weighted_gradient_is_the_sum_of_those_of_single_samples():
    model, weights = tiny_peft(), np.array([0.5, -1.0, 2.0, 0.0, 0.25])
    found = weighted_gradient(model, loader(tokens(5, seed=6), 2), weights)
    each = [flat(g) for g, _ in each_gradient(model, singles(5, 6))]
    expected = sum(w * g for w, g in zip(weights, each, strict=True))
    np.testing.assert_allclose(flat(found), expected, atol=1e-5)


def exact_scores(model, method, queries, rows, samples):
    """By the definitions, with whole gradients in memory."""

    def stack(some):
        return torch.stack([flat(g) for g, _ in each_gradient(model, some)]).numpy()

    q, z, u = stack(queries), stack(samples), stack(rows)
    if method == "tracin":
        return z @ q.mean(axis=0)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, z, u)]
    mean = unit[0].mean(axis=0)
    if method == "fisher":
        fisher = unit[2].T @ unit[2] / len(u)
        largest = np.linalg.eigvalsh(fisher)[-1]
        mean = np.linalg.solve(fisher / largest + DAMPING * np.eye(len(fisher)), mean)
    return unit[1] @ mean


@pytest.mark.parametrize("method", ["cosine", "fisher", "tracin"])
def test_compiled_scores_order_unseen_samples_as_exact_ones_do(method):
    model = tiny_peft().eval()
    queries, rows = loader(tokens(4, seed=11), 2), loader(tokens(24, seed=12), 6)
    compiled = compile_pair(model, method, queries, rows, singles(16, 13), sketch_dim=2**15, seed=1)
    unseen = singles(30, 14)
    scores = np.concatenate([compiled.scores(one)[0] for one in unseen])
    exact = exact_scores(model, method, singles(4, 11), singles(24, 12), unseen)
    assert spearmanr(scores, exact).statistic > (0.99 if method == "tracin" else 0.9)
    assert compiled.agreement.slopes > 0.98
    assert (compiled.norms is None) == (method == "tracin")
    for one in unseen[:3]:
        score, shares = compiled.scores(one)
        np.testing.assert_allclose(shares.sum(1), score, rtol=1e-6)


def test_fisher_weights_solve_the_damped_system():
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(3, 40)), rng.normal(size=(12, 40))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, rows)]
    fisher = unit[1].T @ unit[1] / 12
    scaled = fisher / np.linalg.eigvalsh(fisher)[-1] + 0.3 * np.eye(40)
    expected = np.linalg.solve(scaled, unit[0].mean(axis=0))
    found = (unit[0].mean(axis=0) - fisher_weights(queries, rows, 0.3) @ unit[1]) / 0.3
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_norms_that_follow_loss_and_length_are_foreseen():
    rng = np.random.default_rng(0)
    losses, lengths = rng.uniform(0.5, 4, 200), rng.integers(3, 90, 200).astype(float)
    norms = 3 * losses**0.8 * lengths**-0.5
    found = NormModel.fit(norms, losses, lengths)
    np.testing.assert_allclose(found(losses, lengths), norms, rtol=1e-8)
    assert found.agreement == pytest.approx(1)
    assert found.loss == pytest.approx(0.8)


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_adapters_that_do_more_than_be_added_are_refused(lora):
    with pytest.raises(CaptureError, match="not linear in A and B alone"):
        lora_weights(tiny_peft(**lora))


def test_ranks_and_scales_that_differ_become_one(tmp_path):
    """As an engine reads it: one rank, one scale, the same losses."""
    model = tiny_peft(rank_pattern={"q_proj": 2, "v_proj": 5}, alpha_pattern={"k_proj": 3}).eval()
    pair, sample = AdapterPair(model, random_direction(model), 1e-2), singles(1, 9)[0]
    write_pair(pair, tmp_path)
    for name, sign in (("plus", 1), ("minus", -1)):
        with pair.moved(sign):
            expected = causal_lm_losses(model, sample)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert not config["rank_pattern"]
        assert not config["alpha_pattern"]
        loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / name).eval()
        torch.testing.assert_close(causal_lm_losses(loaded, sample), expected)


def test_scores_that_are_not_linear_are_refused():
    with pytest.raises(ConfigError, match="cannot be compiled"):
        compile_pair(tiny_peft(), "less", [], [], [])


def test_lengths_and_inner_products_are_euclidean():
    model = tiny_peft()
    a, b = random_direction(model, 1), random_direction(model, 2)
    assert dot(a, b) == pytest.approx(float(flat(a) @ flat(b)))
    assert length(a) == pytest.approx(float(flat(a).norm()))
