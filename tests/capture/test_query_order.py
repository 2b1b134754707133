"""Queries are compared with themselves, whatever order their loader gives them in."""

from __future__ import annotations

import pytest
import torch
from conftest import FineTuning, loader, tokens, trainer
from torch.utils.data import DataLoader, RandomSampler

from influcoder_lightning import (
    InfluenceCallback,
    InfluenceStore,
    collate_with_sample_ids,
    with_sample_ids,
)
from influcoder_lightning.errors import DataError


def fit(folder, queries):
    callback = InfluenceCallback(
        str(folder / "s"),
        query_dataloader=queries,
        sketch_dim=128,
        code_dim=8,
        co_train=False,
        keep_sketches=True,
    )
    trainer(folder, [callback], max_epochs=3).fit(FineTuning(rate=0.0), loader(tokens(4), 4))
    return InfluenceStore(folder / "s")


def given(rows, kind):
    """A loader that shuffles, whose queries are told by ids, or by their tokens alone."""
    if kind == "ids":
        return loader(rows, 2, shuffle=True)
    if kind == "repeated ids":
        return DataLoader(
            with_sample_ids(rows, ids=["a", "b", "a", "b", "c", "c"]),
            batch_size=2,
            shuffle=True,
            collate_fn=collate_with_sample_ids(),
        )
    return DataLoader(rows, batch_size=2, shuffle=True)


@pytest.mark.parametrize("kind", ["ids", "repeated ids", "tokens"])
def test_a_shuffled_loader_makes_no_drift(tmp_path, kind):
    rows = tokens(6, seed=95)
    store = fit(tmp_path, given(rows, kind))
    assert store.windows.drift.tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    first = store.query_sketches(0)
    for window in range(3):
        assert store.query_records(window).sample_id.tolist() == store.query_ids.tolist()
        assert torch.allclose(
            torch.tensor(store.query_sketches(window)), torch.tensor(first), rtol=1e-4, atol=1e-6
        )


def test_queries_that_are_others_each_time_are_refused(tmp_path):
    rows = with_sample_ids(tokens(12, seed=96))
    sampler = RandomSampler(rows, num_samples=4)
    queries = DataLoader(rows, batch_size=2, sampler=sampler, collate_fn=collate_with_sample_ids())
    with pytest.raises(DataError, match=r"must be the same.*without sampling"):
        fit(tmp_path, queries)
