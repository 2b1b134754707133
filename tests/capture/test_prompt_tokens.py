"""A row's prompt length is what stands in front of its first response token."""

from __future__ import annotations

import pytest
import torch
from conftest import FineTuning, loader, tokens, trainer

from influcoder_lightning import InfluenceCallback, InfluenceStore, extract_features
from influcoder_lightning.capture.batches import BatchReader


def counted(row) -> int:
    """One position after the other."""
    n = 0
    for seen, label in zip(row["attention_mask"].tolist(), row["labels"].tolist(), strict=True):
        if label != -100:
            return n
        n += seen
    return n


@pytest.mark.parametrize("side", ["right", "left"])
def test_in_training_and_without(tmp_path, side):
    rows = tokens(7, side=side)
    expected = [counted(row) for row in rows]
    callback = InfluenceCallback(str(tmp_path / "s"), sketch_dim=64, code_dim=8)
    trainer(tmp_path, [callback]).fit(FineTuning(), loader(rows, 3))
    trained = InfluenceStore(tmp_path / "s").records().set_index("sample_id").sort_index()
    assert trained["n_prompt_tokens"].tolist() == expected
    frozen = extract_features(FineTuning(), loader(rows, 3), tmp_path / "f", sketch_dim=64)
    assert frozen.records()["n_prompt_tokens"].tolist() == expected


@pytest.mark.parametrize("shifted", [False, True])
def test_of_packed_and_of_shifted_rows(shifted):
    labels = torch.tensor([[-100, -100, 5, 6, -100, 7, -100, -100]])
    if shifted:
        labels = torch.cat([labels[:, 1:], labels.new_full((1, 1), -100)], dim=1)
    packed = {"labels": labels, "sample_id": [0, 1]}
    packed["segment_ids"] = torch.tensor([[1, 1, 1, 1, 2, 2, 0, 0]])
    read = BatchReader(labels_shifted=shifted).read(packed)
    assert read.prompt_tokens().tolist() == [2, 1]
    alone = {"labels": labels, "sample_id": [0]}
    assert BatchReader(labels_shifted=shifted).read(alone).prompt_tokens().tolist() == [2]
