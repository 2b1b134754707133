"""Frozen features equal one-sample autograd, and leave the model as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import loader, oracle_gradient, relative_error, tiny_peft, tokens

from influcoder_lightning import extract_features
from influcoder_lightning.errors import DataError, StoreError


def test_frozen_rows_equal_autograd(tmp_path):
    rows, queries = tokens(10, seed=41), tokens(3, seed=42)
    rows[4]["labels"][:] = -100
    model = tiny_peft(lora_dropout=0.5)
    model.train()
    weights = [p.detach().clone() for p in model.parameters()]
    store = extract_features(
        model,
        loader(rows, 4),
        tmp_path / "s",
        query_dataloader=loader(queries, 2),
        projector="identity",
        keep_sketches=True,
        code_dim=32,
        show_progress=False,
    )
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    for a, b in zip(weights, model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert b.grad is None
    model.eval()
    assert store.sample_ids.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert store.attributes["counts"] == {
        "seen": 10,
        "kept_out": {"no response token": 1},
        "written": 9,
    }
    for sketch, i in zip(store.sketches(), store.sample_ids, strict=True):
        assert relative_error(sketch, oracle_gradient(model, rows[i])) <= 1e-5
    for sketch, row in zip(store.query_sketches(), queries, strict=True):
        assert relative_error(sketch, oracle_gradient(model, row)) <= 1e-5
    assert len(store.windows) == 1
    exact = np.stack([oracle_gradient(model, rows[i]).numpy() for i in store.sample_ids])
    wanted = np.stack([oracle_gradient(model, row).numpy() for row in queries])
    cosine = (exact @ wanted.T) / np.outer(*(np.linalg.norm(m, axis=1) for m in (exact, wanted)))
    np.testing.assert_allclose(store.rank("cosine").scores, cosine.mean(1), atol=5e-3)


def test_rows_do_not_depend_on_the_batch_size(tmp_path):
    rows, model = tokens(9, seed=43), tiny_peft()
    stores = [
        extract_features(
            model,
            loader(rows, size),
            tmp_path / str(size),
            sketch_dim=128,
            keep_sketches=True,
            co_train=False,
            show_progress=False,
        )
        for size in (1, 4, 9)
    ]
    for other in stores[1:]:
        assert relative_error(other.sketches(), stores[0].sketches()) < 1e-5


def test_queries_can_be_added_to_a_frozen_store(tmp_path):
    rows, queries, model = tokens(9, seed=43), tokens(3, seed=44), tiny_peft()
    options = {"sketch_dim": 4096, "show_progress": False, "code_dim": 16}
    with_queries = extract_features(
        model, loader(rows), tmp_path / "a", query_dataloader=loader(queries), **options
    )
    later = extract_features(model, loader(rows), tmp_path / "b", **options)
    later.add_queries(model, loader(queries))
    with pytest.raises(DataError, match="already in the store"):
        later.add_queries(model, loader(queries))
    for new, old in zip(
        later.rank("cosine").per_query, with_queries.rank("cosine").per_query, strict=True
    ):
        assert np.corrcoef(new, old)[0, 1] > 0.99


def test_another_models_queries_are_refused(tmp_path):
    store = extract_features(
        tiny_peft(), loader(tokens(4)), tmp_path, sketch_dim=64, code_dim=8, show_progress=False
    )
    with pytest.raises(StoreError, match="LoRA"):
        store.add_queries(tiny_peft(target_modules=["q_proj"]), loader(tokens(2)))
    with pytest.raises(StoreError, match="does not fit"):
        store.add_queries(tiny_peft(r=2), loader(tokens(2)))
