"""Several samples in one row: each one's own gradient, or an error that names the leak."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import FineTuning, oracle_gradient, relative_error, tiny_peft, tokens, trainer
from torch.utils.data import DataLoader

from influcoder_lightning import InfluenceCallback, InfluenceStore
from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.capture.features import feature_rows
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.capture.loss_observer import LossObserver
from influcoder_lightning.capture.microbatch import MicroBatch
from influcoder_lightning.capture.packing import Segments
from influcoder_lightning.capture.queries import batch_texts
from influcoder_lightning.errors import DataError
from influcoder_lightning.projection import build_projector

SAMPLES = tokens(7, seed=61)
ROWS = ((0, 1, 2), (3, 4), (5, 6))
LENGTH = 30


def packed(rows=ROWS, left=0, **changes):
    """A batch with the samples of each row one after the other, behind ``left`` padding tokens."""
    shape = (len(rows), LENGTH)
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, -100),
        "position_ids": torch.zeros(shape, dtype=torch.long),
        "segment_ids": torch.zeros(shape, dtype=torch.long),
        "sample_id": [list(row) for row in rows],
    }
    for number, row in enumerate(rows):
        at = left
        for segment, index in enumerate(row, 1):
            used = SAMPLES[index]["attention_mask"].bool()
            span = (number, slice(at, at + int(used.sum())))
            at = span[1].stop
            for name in ("input_ids", "labels"):
                batch[name][span] = SAMPLES[index][name][used]
            batch["position_ids"][span] = torch.arange(int(used.sum()))
            batch["segment_ids"][span] = segment
    return batch | changes


def block_mask(segment_ids, kind=torch.bool):
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    allowed = (same & causal)[:, None]
    if kind is torch.bool:
        return allowed
    return torch.zeros(allowed.shape, dtype=kind).masked_fill(~allowed, torch.finfo(kind).min)


def read(batch, reduction):
    return MicroBatch.of(BatchReader().read(batch), reduction)


def run(batch, model=None, reduction="token_mean", forward=None, **inputs):
    """A training step on ``batch``: ids, rows in each sample's own unit, losses, training loss."""
    model = model or tiny_peft()
    linears = find_lora_linears(model)
    capture = GradientCapture(linears, build_projector("identity", linears, 0, 0))
    observer = LossObserver(model)
    capture.attach()
    observer.attach()
    micro = read(batch, reduction)
    capture.begin(len(micro.ids), segments=micro.batch.segments)
    observer.begin(micro.batch.labels, micro.batch.segments)
    known = {name: batch[name] for name in ("input_ids", "labels")}
    loss = (forward or model)(**known, **inputs).loss
    capture.begin_backward()
    loss.backward()
    captured, losses = capture.finish(), observer.finish(len(micro.ids))
    micro.loss = float(loss.detach())
    return micro, micro.rows(captured, losses, None)


def assert_exact(rows, model=None):
    model = (model or tiny_peft()).eval()
    for id_, sketch, norm, loss in zip(rows.ids, rows.sketch, rows.norm, rows.loss, strict=True):
        expected = oracle_gradient(model, SAMPLES[id_])
        assert relative_error(sketch, expected) <= 1e-5
        assert float(norm) == pytest.approx(float(expected.norm()), rel=1e-5)
        used = SAMPLES[id_]["attention_mask"].bool()
        ids, labels = (SAMPLES[id_][name][used][None] for name in ("input_ids", "labels"))
        assert float(loss) == pytest.approx(float(model(ids, labels=labels).loss), rel=1e-5)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
@pytest.mark.parametrize("left", [0, 3])
def test_a_block_diagonal_mask(kind, left):
    batch = packed(left=left)
    mask = block_mask(batch["segment_ids"], kind)
    micro, rows = run(batch, attention_mask=mask, position_ids=batch["position_ids"])
    assert rows.ids == list(range(7))
    assert micro.expected_loss(rows.loss) == pytest.approx(micro.loss, rel=1e-5)
    assert_exact(rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_restarting_position_ids(attention):
    model = tiny_peft()
    model.base_model.model.set_attn_implementation(attention)
    batch = packed()
    _, rows = run(batch, model, position_ids=batch["position_ids"], use_cache=False)
    assert_exact(rows)


def test_ids_as_one_flat_list_and_another_reduction():
    batch = packed(sample_id=list(range(7)))
    weights = torch.arange(1.0, 8.0)

    def weighted(**inputs):
        logits = model(**inputs).logits[:, :-1]
        token = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), batch["labels"][:, 1:], reduction="none"
        )
        loss = 0
        for position, (row, number) in enumerate(
            (row, number) for row, ids in enumerate(ROWS) for number in range(1, len(ids) + 1)
        ):
            mine = (batch["segment_ids"][row] == number)[1:]
            kept = mine & (batch["labels"][row, 1:] != -100)
            loss = loss + weights[position] * token[row][kept].mean()
        return type("Output", (), {"loss": loss})

    model = tiny_peft()
    mask = block_mask(batch["segment_ids"])
    _, rows = run(batch, model, lambda batch: weights, weighted, attention_mask=mask)
    assert_exact(rows)


def test_packing_with_a_module_called_twice_and_checkpointing():
    model, plain = tiny_peft(), tiny_peft()
    for one in (model, plain):
        layers = one.base_model.model.model.layers
        layers[1].mlp = layers[0].mlp
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    batch = packed()
    mask = block_mask(batch["segment_ids"])
    _, rows = run(batch, model.train(), attention_mask=mask, position_ids=batch["position_ids"])
    assert_exact(rows, plain)


def leak():
    mask = block_mask(packed()["segment_ids"])
    mask[0, 0, :, 0] = True
    return mask


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "neither a 4-D mask nor position_ids"),
        ({"attention_mask": (packed()["segment_ids"] > 0).long()}, "2-D attention mask"),
        ({"attention_mask": leak()}, "lets a sample see another"),
        ({"position_ids": torch.arange(LENGTH)[None], "use_cache": False}, "do not restart"),
        ({"position_ids": packed()["position_ids"]}, "use_cache=True"),
    ],
)
def test_packing_that_is_not_block_diagonal_is_refused(inputs, words):
    with pytest.raises(DataError, match=f"packed without block-diagonal attention.*{words}"):
        run(packed(), **inputs)


def test_attention_that_does_not_look_at_position_ids_is_refused():
    segments = Segments.read(packed())
    inputs = {"position_ids": packed()["position_ids"], "use_cache": False}
    for kind in ("flash_attention_2", "a_kernel"):  # the first packs single rows only
        config = type("Config", (), {"_attn_implementation": kind})
        with pytest.raises(DataError, match=f"attention '{kind}'.*batch of 3 rows"):
            segments.require_block_diagonal(inputs, config)
    single = Segments.read({"segment_ids": packed()["segment_ids"][:1]})
    config = type("Config", (), {"_attn_implementation": "flash_attention_2"})
    positions = packed()["position_ids"]
    single.require_block_diagonal(inputs | {"position_ids": positions[:1]}, config)
    with pytest.raises(DataError, match="another shape"):
        single.require_block_diagonal(inputs | {"position_ids": positions[:1, :9]}, config)


def test_use_cache_does_leak():
    """Why it is refused: transformers does not tell samples apart when there is a cache."""
    model, batch = tiny_peft().eval(), packed()
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        kept = model(**inputs, use_cache=False).logits
        leaking = model(**inputs, use_cache=True).logits
    assert not torch.allclose(kept, leaking, atol=1e-4)


def test_layers_with_a_state_are_refused_by_name():
    model = tiny_peft()
    model.base_model.model.config.layer_types = ["full_attention", "linear_attention"]
    batch = packed()
    with pytest.raises(DataError, match="linear_attention carry a state"):
        run(batch, model, attention_mask=block_mask(batch["segment_ids"]), use_cache=False)


def test_a_model_that_is_not_called_as_a_whole_is_refused():
    model = tiny_peft()
    inner = model.base_model.model

    def forward(input_ids, labels, **inputs):
        logits = inner.lm_head(inner.model(input_ids, **inputs).last_hidden_state)
        return type("Output", (), {"loss": logits.float().square().mean()})

    batch = packed()
    with pytest.raises(DataError, match="not called as a whole"):
        run(batch, model, forward=forward, attention_mask=block_mask(batch["segment_ids"]))


def swapped(row):
    changed = packed()["segment_ids"]
    changed[0] = torch.tensor(row)[torch.arange(LENGTH) * len(row) // LENGTH]
    return changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": packed()["input_ids"]}, "first token of a sample"),
        ({"labels": torch.full((3, LENGTH), -100)}, "no response token"),
        ({"labels": torch.full((3, 7), -100)}, "has shape"),
        ({"sample_id": [[0, 1], [2, 3, 4], [5, 6]]}, r"\[2, 3, 2\] sample ids"),
        ({"sample_id": [0, 1, 2]}, "3 sample ids but 7 segments"),
        ({"segment_ids": swapped([1, 2, 1])}, "does not number its samples"),
        ({"segment_ids": swapped([2, 3])}, "does not number its samples"),
        ({"segment_ids": torch.zeros(3, LENGTH, dtype=torch.long)}, "holds no sample"),
        ({"segment_ids": torch.ones(3, LENGTH)}, "integer tensor"),
    ],
)
def test_damaged_packing_is_refused(changes, words):
    with pytest.raises(DataError, match=words):
        read(packed(**changes), "sum")


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_a_mask_of_blocks_without_segment_ids_is_refused(kind):
    batch = packed(position_ids=None, sample_id=[0, 1, 2])
    segment_ids = batch.pop("segment_ids")
    with pytest.raises(DataError, match=r"4-D attention_mask of several blocks.*segment_ids"):
        read(batch | {"attention_mask": block_mask(segment_ids, kind)}, "sum")
    plain = block_mask(torch.ones_like(segment_ids), kind)  # causal: one sample per row
    assert len(read(batch | {"attention_mask": plain}, "sum").ids) == 3


def test_packed_queries_are_refused():
    model = tiny_peft()
    capture = GradientCapture(find_lora_linears(model), None)
    with pytest.raises(DataError, match="supported only in training"):
        feature_rows(capture, packed(), list(range(7)), packed()["labels"], lambda batch: None)


def test_a_label_on_padding_is_refused():
    batch = packed()
    batch["labels"][:, -1] = 5
    with pytest.raises(DataError, match="padding token"):
        read(batch, "sum")


def test_texts_are_each_segments_own():
    class Tokenizer:
        def batch_decode(self, rows, skip_special_tokens):
            return [" ".join(map(str, row)) for row in rows]

    batch = packed()
    micro = read(batch, "sum")
    for text, sample in zip(batch_texts(micro.batch, Tokenizer()), SAMPLES, strict=True):
        response = sample["labels"] != -100
        prompt = sample["attention_mask"].bool() & ~response
        assert text["prompt"] == " ".join(map(str, sample["input_ids"][prompt].tolist()))
        assert text["response"] == " ".join(map(str, sample["input_ids"][response].tolist()))


def test_a_packed_training_run(tmp_path):
    """Through the Trainer: a row per segment, exact, in their order, with every sample counted."""
    module = FineTuning(tiny_peft())
    before = copy.deepcopy(module.model)
    names = ("input_ids", "position_ids", "labels")

    def training_step(batch, batch_idx):
        return module.model(**{name: batch[name] for name in names}, use_cache=False).loss

    module.training_step = training_step
    callback = InfluenceCallback(
        str(tmp_path / "s"), projector="identity", code_dim=8, keep_sketches=True
    )
    batches = DataLoader([packed()], batch_size=None, collate_fn=lambda batch: batch)
    trainer(tmp_path, [callback]).fit(module, batches)
    store = InfluenceStore(tmp_path / "s")
    assert store.sample_ids.tolist() == list(range(7))
    for index, sketch in enumerate(store.sketches()):
        assert relative_error(sketch, oracle_gradient(before, SAMPLES[index])) <= 1e-5


def test_repeated_rows_of_a_packed_batch():
    micro = read(packed(), "token_mean")
    assert micro.beyond(2).tolist() == [False] * 5 + [True] * 2
    assert not micro.beyond(None).any()
