"""recipe=verify of a model: the table has each way to train, and notices rows that are wrong."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import VOCAB, tiny_peft

from influcoder_lightning.capture.microbatch import MicroBatch
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.recipes import exactness
from influcoder_lightning.run.settings import Settings


@pytest.fixture
def proof(monkeypatch, tmp_path):
    """Runs the proof on a tiny model; returns the ways that `verify.json` holds."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index, length in enumerate((5, 9, 7)):
        ids = torch.randint(1, VOCAB, (length,), generator=generator)
        labels = torch.where(torch.arange(length) < 3, -100, ids)
        mask = torch.ones_like(ids)
        samples.append({"input_ids": ids, "attention_mask": mask, "labels": labels,
                        "sample_id": index, "prompt": "p", "response": "r"})  # fmt: skip

    class Pool(list):
        dataset = samples

    class Made:
        tokenizer = Settings({"pad_token_id": 0})

        def first(self, n):
            return Pool(samples[:n])

    monkeypatch.setattr(exactness, "Materials", lambda cfg, recipe: Made())
    monkeypatch.setattr(exactness, "lora_model", lambda cfg: tiny_peft())
    monkeypatch.setattr(exactness, "save_config", lambda cfg, folder: None)
    sections = {"model": {"name": "tiny"}, "lora": {}, "influence": {"sketch_dim": 4096}}
    cfg = Settings({**sections, "n": 3, "seed": 0, "precisions": ["32-true"]})

    def run():
        exactness.prove(cfg, tmp_path)
        return json.loads((tmp_path / "verify.json").read_text())["ways"]

    return run


@pytest.mark.parametrize("bias", [False, True])
def test_every_way_to_train_is_in_the_table_and_exact(proof, monkeypatch, caplog, bias):
    caplog.set_level("INFO", logger=exactness.__name__)
    monkeypatch.setattr(exactness, "lora_model", lambda *_: tiny_peft(lora_bias=bias))
    ways = proof()
    assert {(w["rows"], w["checkpointing"]) for w in ways} == {
        ("padded", False), ("padded", True), ("packed", False), ("packed", True)
    }  # fmt: skip
    assert all(w["refused"] is None and w["error"] <= 1e-5 and w["cosine"] > 0.9999 for w in ways)
    assert caplog.messages[-1].startswith("4 of 4 ways to train are exact")


def test_a_model_that_no_way_to_train_can_value_is_an_error(proof, monkeypatch):
    targets = ["q_proj", "embed_tokens"]
    monkeypatch.setattr(exactness, "lora_model", lambda *_: tiny_peft(target_modules=targets))
    with pytest.raises(CaptureError, match=r"no way to train can be captured: .*Embedding"):
        proof()


def test_rows_that_differ_are_an_error(proof, monkeypatch):
    unit = MicroBatch.unit
    monkeypatch.setattr(MicroBatch, "unit", lambda self: 1.01 * unit(self))
    with pytest.raises(CaptureError, match="4 of 4 ways to train"):
        proof()
