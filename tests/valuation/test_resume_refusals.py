"""A run goes on only with what its rows depended on so far."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from conftest import FineTuning, Samples, loader, tiny_llama, tiny_peft, tokens, trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from influcoder_lightning import (
    EpochLoader,
    InfluenceCallback,
    InfluenceStore,
    collate_with_sample_ids,
    with_sample_ids,
)
from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.errors import StoreError
from influcoder_lightning.valuation.fingerprint import frozen_weights, query_samples

POOL, QUERIES = tokens(8, seed=61), tokens(3, seed=62)


class Stopped(Exception):
    pass


class Stop(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 3:
            raise Stopped


class Hashed(InfluenceCallback):
    """A user's own, who knows the hash of a file."""

    def __init__(self, digest, *args, **options):
        super().__init__(*args, **options)
        self.digest = digest

    @property
    def state_key(self):
        return "Hashed"

    def depends_on(self, trainer, pl_module):
        return super().depends_on(trainer, pl_module) | {"file": self.digest}


class Sgd(FineTuning):
    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1e-2)


def fit(folder, stop=False, *, pool=POOL, ids=None, queries=QUERIES, digest="a" * 64, module=None):
    options = {"sketch_dim": 32, "code_dim": 4, "co_train": False}
    callback = Hashed(digest, str(folder / "store"), query_dataloader=loader(queries, 2), **options)
    saver = ModelCheckpoint(folder / "ckpt", every_n_train_steps=2, save_top_k=1)
    run = trainer(folder, [callback, saver] + [Stop()] * stop, enable_checkpointing=True)
    data = with_sample_ids(Samples(pool), ids)
    batches = EpochLoader(data, 2, collate_with_sample_ids(), seed=1)
    module = FineTuning(tiny_peft(target_modules=["q_proj"])) if module is None else module
    ckpt = None if stop else str(next((folder / "ckpt").glob("*.ckpt")))
    run.fit(module, batches, ckpt_path=ckpt)
    return InfluenceStore(folder / "store")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stopped):
        fit(folder, stop=True)
    return folder


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"pool": tokens(7, seed=61)}, "samples: 8 -> 7"),
        ({"ids": list("abcdefgh")}, "sample_ids"),
        ({"queries": tokens(3, seed=63)}, "queries: its content has changed"),
        ({"digest": "b" * 64}, "file: its content has changed"),
    ],
)
def test_other_data_is_refused(stopped, change, word):
    before = (stopped / "store" / "segments" / "run.json").read_bytes()
    with pytest.raises(StoreError, match=word):
        fit(stopped, **change)
    assert (stopped / "store" / "segments" / "run.json").read_bytes() == before


def test_another_optimizer_is_refused(stopped):
    module = Sgd(tiny_peft(target_modules=["q_proj"]))
    with pytest.raises((StoreError, ValueError, KeyError), match=r"optimizer|param"):
        fit(stopped, module=module)


def test_a_run_that_kept_no_fingerprint_goes_on_and_says_so(tmp_path):
    with pytest.raises(Stopped):
        fit(tmp_path, stop=True)
    path = tmp_path / "store" / "segments" / "run.json"
    description = json.loads(path.read_text())
    del description["checksum"]
    del description["store"]["attributes"]["config"]["depends_on"]
    path.write_text(json.dumps(description))
    with pytest.warns(UserWarning, match="did not keep .*queries.* cannot be checked"):
        assert len(fit(tmp_path)) == 8


def test_queries_are_known_by_their_tokens_not_by_their_batches():
    same = query_samples(loader(QUERIES, 2), BatchReader())
    assert query_samples(loader(QUERIES[::-1], 1), BatchReader()) == same
    padded = [{k: torch.nn.functional.pad(v, (0, 3), value=-100 * (k == "labels"))
               for k, v in row.items()} for row in QUERIES]  # fmt: skip
    assert query_samples(loader(padded, 2), BatchReader()) == same
    for key in ("input_ids", "labels"):
        changed = [{k: v.clone() for k, v in row.items()} for row in QUERIES]
        changed[1][key][QUERIES[1]["labels"] != -100] = 1
        assert query_samples(loader(changed, 2), BatchReader()) != same


def test_reading_the_queries_leaves_the_random_state():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    query_samples(loader(QUERIES, 2, shuffle=True), BatchReader())
    assert torch.equal(torch.get_rng_state(), state)


def test_another_base_model_is_seen_and_training_the_lora_is_not():
    model = tiny_peft()
    before = frozen_weights(model)
    assert frozen_weights(tiny_peft()) == before == frozen_weights(tiny_peft().bfloat16())
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 1
    assert frozen_weights(model) == before
    assert frozen_weights(tiny_peft(seed=1)) != before
    assert frozen_weights(tiny_llama().requires_grad_(False)) == before  # without its adapter


def test_what_a_validation_loaded_is_not_gone_on_from(stopped, tmp_path):
    """A checkpoint given to `validate` is no reason for a later `fit` to go on with its run."""
    callback = Hashed("a" * 64, str(tmp_path / "new"), sketch_dim=32, code_dim=4, co_train=False)
    module = FineTuning(tiny_peft(target_modules=["q_proj"]))
    module.validation_step = lambda batch, batch_idx: None
    run = trainer(tmp_path, [callback])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ckpt = str(next((stopped / "ckpt").glob("*.ckpt")))
        run.validate(module, loader(QUERIES, 2), ckpt_path=ckpt)
        run.fit(module, loader(POOL, 4))
    assert len(InfluenceStore(tmp_path / "new")) == 8
