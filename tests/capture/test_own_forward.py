"""Queries and frozen rows see what the user's model sees; what they would not see is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from capturing import captured
from conftest import FineTuning, loader, oracle_gradient, relative_error, tiny_peft, tokens, trainer
from other_batches import (
    Passing,
    Shifted,
    adapted,
    bert,
    gradient_of,
    image_rows,
    llava,
    shifted,
)
from torch.nn.functional import cross_entropy
from transformers import (
    BertForMaskedLM,
    BertForTokenClassification,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from influcoder_lightning import InfluenceCallback, extract_features
from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.capture.forward import accepted_inputs, model_inputs, response_losses
from influcoder_lightning.errors import CaptureError, DataError

EXACT = {"projector": "identity", "keep_sketches": True, "co_train": False, "code_dim": 8}


def assert_equal(sketches, expected, tolerance=1e-5):
    for sketch, gradient in zip(sketches, expected, strict=True):
        assert relative_error(sketch, gradient) <= tolerance


def image_gradient(model, row):
    inputs = {k: row[k][None] for k in ("input_ids", "attention_mask", "pixel_values")}
    logits = model(**inputs).logits[0, :-1]
    return gradient_of(model, cross_entropy(logits, row["labels"][1:]))


def shifted_gradient(model, row):
    logits = model(row["input_ids"][None], attention_mask=row["attention_mask"][None]).logits[0]
    return gradient_of(model, cross_entropy(logits, row["labels"]))


def test_images_reach_the_model_in_training_in_queries_and_frozen(tmp_path):
    rows, queries = image_rows(4), image_rows(2, seed=9)
    model = llava()
    before = copy.deepcopy(model)
    options = {"query_dataloader": loader(queries, 2)}
    store = captured(tmp_path, Passing(model), loader(rows, 4), options)
    assert_equal(store.sketches(), [image_gradient(before, row) for row in rows])
    assert_equal(store.query_sketches(0), [image_gradient(before, row) for row in queries])
    frozen = extract_features(before, loader(rows, 2), tmp_path / "frozen", **EXACT)
    assert_equal(frozen.sketches(), [image_gradient(before, row) for row in rows])


def test_masks_in_tuple_batches_reach_the_model(tmp_path):
    class Tuples(FineTuning):
        def training_step(self, batch, batch_idx):
            ids, mask, labels = batch
            return self.model(input_ids=ids, attention_mask=mask, labels=labels).loss

    def plain(rows):
        return [(row["input_ids"], row["attention_mask"], row["labels"]) for row in rows]

    rows, queries = tokens(6, side="left"), tokens(3, seed=9, side="left")
    module = Tuples()
    before = copy.deepcopy(module.model)
    options = {"query_dataloader": loader(plain(queries), 3)}
    store = captured(tmp_path, module, loader(plain(rows), 6), options)
    assert_equal(store.query_sketches(0), [oracle_gradient(before, row) for row in queries])
    frozen = extract_features(before, loader(plain(rows), 3), tmp_path / "frozen", **EXACT)
    assert_equal(frozen.sketches(), [oracle_gradient(before, row) for row in rows])


@pytest.mark.parametrize("everything", [False, True], ids=["prompt masked", "all tokens"])
def test_labels_that_come_shifted(tmp_path, everything):
    def prepared(n, seed):
        rows = [row for row in tokens(n, seed) if (row["labels"] != -100).sum() > 1]
        for row in rows if everything else ():
            row["labels"] = torch.where(row["attention_mask"].bool(), row["input_ids"], -100)
        return shifted(rows)

    rows, queries = prepared(8, 1), prepared(4, 9)
    module = Shifted()
    before = copy.deepcopy(module.model)
    options = {"query_dataloader": loader(queries, 2), "labels_shifted": True}
    store = captured(tmp_path, module, loader(rows, 8), options)
    assert_equal(store.sketches(), [shifted_gradient(before, row) for row in rows])
    assert_equal(store.query_sketches(0), [shifted_gradient(before, row) for row in queries])
    losses = [
        float(response_losses(before, BatchReader(labels_shifted=True).read(batch)))
        for batch in loader(rows, 1)
    ]
    assert store.records().loss.tolist() == pytest.approx(losses, rel=1e-4)
    assert store.records().n_tokens.tolist() == [int((r["labels"] != -100).sum()) for r in rows]


class Own(torch.nn.Module):
    """A causal language model of another style: own argument names, logits as a tensor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(61, 16)
        self.mix = torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, 61)

    def forward(self, words):
        return self.head(torch.tanh(self.mix(self.embed(words))).cumsum(1))


class OwnModule(FineTuning):
    def training_step(self, batch, batch_idx):
        logits = self.model(batch["input_ids"])[:, :-1]
        return cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


class WithLosses(OwnModule):
    def influence_losses(self, batch):
        return own_losses(self, batch)


def own_losses(module, batch):
    targets = batch["labels"][:, 1:]
    logits = module.model(batch["input_ids"])[:, :-1]
    token = cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return token.sum(1) / (targets != -100).sum(1)


class WithQueryLoss(InfluenceCallback):
    def query_loss(self, pl_module, batch):
        return own_losses(pl_module, batch)


@pytest.mark.parametrize("way", ["batch_loss", "influence_losses", "query_loss", "read_batch"])
def test_models_with_a_forward_of_their_own(tmp_path, way):
    rows, queries = tokens(6, seed=3), tokens(3, seed=4)
    module = (WithLosses if way == "influence_losses" else OwnModule)(adapted(Own(), ["mix"]))
    before = copy.deepcopy(module.model)
    options = {"query_dataloader": loader(queries, 2), **EXACT}
    if way == "batch_loss":
        options["batch_loss"] = own_losses
    if way == "read_batch":
        options["read_batch"] = lambda b: ({"words": b["input_ids"]}, b["labels"], b["sample_id"])
    kind = WithQueryLoss if way == "query_loss" else InfluenceCallback
    callback = kind(str(tmp_path / "store"), **options)
    trainer(tmp_path, [callback], max_steps=1).fit(module, loader(rows, 6))
    store = extract_store(tmp_path)

    def expected(row):
        loss = cross_entropy(before(row["input_ids"][None])[0, :-1], row["labels"][1:])
        return gradient_of(before, loss)

    assert_equal(store.sketches(), [expected(row) for row in rows])
    assert_equal(store.query_sketches(0), [expected(row) for row in queries])


def extract_store(folder):
    from influcoder_lightning import InfluenceStore

    return InfluenceStore(folder / "store")


def test_frozen_rows_and_later_queries_use_the_modules_own_losses(tmp_path):
    rows, queries = tokens(4, seed=3), tokens(2, seed=4)
    module = WithLosses(adapted(Own(), ["mix"]))
    store = extract_features(module, loader(rows, 2), tmp_path / "store", **EXACT)
    named = [{**row, "sample_id": f"q{i}"} for i, row in enumerate(queries)]
    del store
    store = extract_store(tmp_path)
    store.add_queries(module, loader(named, 2))

    def expected(row):
        loss = cross_entropy(module.model(row["input_ids"][None])[0, :-1], row["labels"][1:])
        return gradient_of(module.model, loss)

    assert_equal(store.sketches(), [expected(row) for row in rows])
    assert_equal(store.query_sketches(0), [expected(row) for row in queries])


def test_a_tensor_that_would_not_reach_the_model_is_an_error(tmp_path):
    rows = [{**row, "pixel_values": torch.zeros(3)} for row in tokens(4)]
    options = {"query_dataloader": loader(rows, 2)}
    with pytest.raises(DataError, match=r"`pixel_values` of the batch would not reach.*read_batch"):
        captured(tmp_path, FineTuning(), loader(tokens(4)), options)
    extra = [(r["input_ids"], torch.arange(12), r["labels"]) for r in tokens(4)]
    with pytest.raises(DataError, match="element 1 of the batch would not reach"):
        extract_features(tiny_peft(), loader(extra), tmp_path / "frozen", **EXACT)


def test_a_forward_that_takes_any_keyword_gets_every_tensor():
    class Any(torch.nn.Module):
        def forward(self, **inputs):
            raise NotImplementedError

    batch = {"input_ids": torch.ones(1, 3, dtype=torch.int64), "extra": torch.ones(1), "name": "x"}
    batch["labels"] = batch["input_ids"]
    assert accepted_inputs(Any()) is None
    assert model_inputs(Any(), BatchReader().read(batch)).keys() == {"input_ids", "extra"}
    assert "pixel_values" not in accepted_inputs(tiny_peft())


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (lambda: adapted(bert(BertForMaskedLM), ["query"]), "masked language model"),
        (lambda: adapted(bert(BertForTokenClassification), ["query"], "TOKEN_CLS"), "token class"),
        (lambda: adapted(llama_classifier(), ["q_proj"], "SEQ_CLS"), "a sequence classifier"),
        (lambda: adapted(t5(), ["q", "v"], "SEQ_2_SEQ_LM"), "an encoder-decoder"),
        (lambda: torch.nn.ModuleList([adapted(bert(OwnMasked), ["query"])]), "masked language"),
    ],
)
def test_models_that_are_no_causal_language_models_are_refused(tmp_path, model, what):
    with pytest.raises(CaptureError, match=f"is {what}|is a {what}"):
        captured(tmp_path, FineTuning(model()), loader(tokens(2)))


class OwnMasked(BertForMaskedLM):
    """A class of the user's own with an encoder's head."""


def llama_classifier():
    from other_batches import SMALL
    from transformers import LlamaConfig

    return LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=3, pad_token_id=0))


def t5():
    config = T5Config(vocab_size=61, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    return T5ForConditionalGeneration(config)


def test_labels_of_another_shape_than_the_tokens_are_refused():
    batch = {"input_ids": torch.ones(2, 5, dtype=torch.int64), "labels": torch.ones(2, 3).long()}
    with pytest.raises(DataError, match="a label per token"):
        BatchReader().read(batch)
