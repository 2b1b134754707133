"""One base model trained again and again: no run knows of another."""

from __future__ import annotations

import pytest
import torch
from conftest import Samples, tiny_llama, tokens

from influcoder_lightning.finetune.models import add_lora
from influcoder_lightning.finetune.retraining import Retraining
from influcoder_lightning.finetune.training import train

LORA = {"r": 2, "alpha": 4, "dropout": 0.1, "target_modules": "all-linear"}
OPTIONS = {"batch_size": 4, "lr": 1e-2, "pad_token_id": 0}


def rows(seed: int, n: int = 8) -> Samples:
    more = {"prompt": "", "response": ""}
    return Samples([{**row, **more, "sample_id": i} for i, row in enumerate(tokens(n, seed=seed))])


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_each_run_is_as_of_a_fresh_model_whatever_ran_before(tmp_path):
    retraining = Retraining(tiny_llama, LORA, OPTIONS)
    found = []
    for number, seed in enumerate([0, 1, 0]):
        model = retraining.run(rows(seed), steps=2, seed=seed)
        found.append(weights(model))
        model.save_pretrained(str(tmp_path / str(number)))
    for seed, got in zip([0, 1, 0], found, strict=True):
        alone = train(add_lora(tiny_llama(), LORA, seed), rows(seed), steps=2, seed=seed, **OPTIONS)
        torch.testing.assert_close(got, weights(alone), rtol=0, atol=0)
    again = retraining.load(tmp_path / "1")
    torch.testing.assert_close(weights(again), found[1], rtol=0, atol=0)


@pytest.mark.parametrize("begun", ["pissa", "olora"])
def test_a_lora_that_takes_part_of_the_base_leaves_the_next_run_a_whole_one(tmp_path, begun):
    lora = LORA | {"init_lora_weights": begun, "dropout": 0.0}
    retraining = Retraining(tiny_llama, lora, OPTIONS)
    before = {k: v.clone() for k, v in retraining.base().state_dict().items()}
    first = weights(retraining.run(rows(0), steps=1, seed=0))
    torch.testing.assert_close(weights(retraining.run(rows(0), steps=1, seed=0)), first)
    model = retraining.run(rows(1), steps=1, seed=0)
    with torch.no_grad():
        expected = model(tokens(1)[0]["input_ids"][None]).logits
    model.save_pretrained(str(tmp_path / "kept"))
    again = retraining.load(tmp_path / "kept").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(tokens(1)[0]["input_ids"][None]).logits, expected)
    torch.testing.assert_close(dict(retraining.base().state_dict()), before)


def test_half_precision_moves_weights_to_other_numbers():
    """Gradients of 0 must not become 0 / 0, where AdamW's default eps is 0."""
    model = add_lora(tiny_llama(), LORA, seed=0)
    before = {name: weight.half() for name, weight in weights(model).items()}
    after = weights(train(model, rows(5), steps=2, precision="16-true", **OPTIONS))
    assert all(weight.dtype == torch.float16 for weight in after.values())
    assert all(bool(torch.isfinite(weight).all()) for weight in after.values())
    assert any(not torch.equal(after[name], weight) for name, weight in before.items())
