import pickle
from collections import namedtuple
from types import MappingProxyType

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data._utils.pin_memory import pin_memory

from influcoder_lightning import collate_with_sample_ids, with_sample_ids
from influcoder_lightning.data.sample_ids import IdList, IdTuple, batch_labels, batch_sample_ids
from influcoder_lightning.errors import DataError

X = torch.arange(10, dtype=torch.float32).reshape(5, 2)
Y = torch.arange(5, dtype=torch.float32)
Pair = namedtuple("Pair", "x y")


class Stream(IterableDataset):
    def __iter__(self):
        yield {"x": 1}


def as_tuple(samples):
    return tuple(torch.stack(column) for column in zip(*samples, strict=True))


def as_pair(samples):
    return Pair(*as_tuple(samples))


def as_frozen(samples):
    return MappingProxyType({"x": torch.stack([sample["x"] for sample in samples])})


def as_tensor(samples):
    return torch.stack([sample[0] for sample in samples])


def as_nested(samples):
    x, y = as_tuple(samples)
    return ({"x": x}, [y, "text"])


def test_dict_samples_get_the_id_under_the_key():
    rows = [{"x": 1.0}, {"x": 2.0, "id": "own"}, {"x": 3.0, "sample_id": "mine", "id": "other"}]
    dataset = with_sample_ids(rows)
    assert [dataset[i]["sample_id"] for i in range(3)] == [0, "own", "mine"]
    assert rows[0] == {"x": 1.0}
    assert len(dataset) == 3


def test_tuple_and_list_samples_look_the_same():
    dataset = with_sample_ids(TensorDataset(X, Y))
    x, y = dataset[3]
    assert torch.equal(x, X[3])
    assert y == 3
    assert dataset[3].sample_id == 3
    assert dataset[-1].sample_id == 4
    listed = with_sample_ids([[1, 2], [3, 4]], ids=["a", "b"])
    assert listed[1] == [3, 4]
    assert listed[1].sample_id == "b"
    with pytest.raises(IndexError):
        dataset[5]


def test_given_ids_are_used_and_checked():
    dataset = with_sample_ids([{"x": 1}, {"x": 2}], ids=np.array([7, 9]), key="row")
    assert [dataset[i]["row"] for i in range(2)] == [7, 9]
    with pytest.raises(DataError, match="1 ids for 2 samples"):
        with_sample_ids([{"x": 1}, {"x": 2}], ids=[1])
    with pytest.raises(DataError, match="must be an integer or a string"):
        with_sample_ids([{"x": 1}], ids=[1.5])
    with pytest.raises(DataError, match="mixes"):
        with_sample_ids([{"x": 1}, {"x": 2}], ids=[1, "b"])
    with pytest.raises(DataError, match="Drop one of the two"):
        with_sample_ids([{"sample_id": 1}], ids=[2])[0]


@pytest.mark.parametrize("bad", [True, 1.0, None, [1], 2**63])
def test_other_ids_are_refused(bad):
    with pytest.raises(DataError):
        batch_sample_ids({"sample_id": [bad]})


def test_iterable_datasets_are_refused_with_the_way_out():
    with pytest.raises(DataError, match="Let it yield the id itself"):
        with_sample_ids(Stream())


def test_samples_that_cannot_carry_an_id_are_refused():
    with pytest.raises(DataError, match="Let the dataset return a dict"):
        with_sample_ids([torch.zeros(2)])[0]


def test_dict_batches_keep_ids_as_tensor_or_strings():
    rows = [{"x": torch.tensor(float(i))} for i in range(4)]
    collate = collate_with_sample_ids()
    batch = collate([with_sample_ids(rows)[i] for i in range(4)])
    assert batch["sample_id"].dtype == torch.int64
    assert batch_sample_ids(batch) == [0, 1, 2, 3]
    named = with_sample_ids(rows, ids=list("abcd"))
    batch = collate([named[i] for i in range(4)])
    assert batch["sample_id"] == list("abcd")
    assert torch.equal(batch["x"], torch.arange(4.0))


def test_the_inner_collate_sees_plain_samples():
    seen = []

    def inner(samples):
        seen.extend(samples)
        return {"n": len(samples)}

    collate_with_sample_ids(inner)([with_sample_ids([{"x": 1}])[0]])
    collate_with_sample_ids(inner)([with_sample_ids([Pair(1, 2)])[0]])
    assert seen == [{"x": 1}, Pair(1, 2)]
    assert type(seen[1]) is Pair


def test_batches_that_cannot_carry_ids_are_refused():
    sample = with_sample_ids(TensorDataset(X, Y))[0]
    with pytest.raises(DataError, match="cannot carry sample ids"):
        collate_with_sample_ids(as_tensor)([sample])
    with pytest.raises(DataError, match="with_sample_ids"):
        collate_with_sample_ids()([(X[0], Y[0])])


def test_named_tuples_carry_ids():
    sample = with_sample_ids(TensorDataset(X, Y))[0]
    batch = collate_with_sample_ids(as_pair)([sample])
    assert isinstance(batch, Pair)
    assert batch_sample_ids(batch) == [0]


def test_read_only_mapping_batches_become_dicts():
    sample = with_sample_ids([{"x": X[0]}])[0]
    assert batch_sample_ids(collate_with_sample_ids(as_frozen)([sample])) == [0]


@pytest.mark.parametrize(("inner", "kind"), [(None, IdList), (as_tuple, IdTuple)])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_list_and_tuple_batches_keep_ids_through_workers(inner, kind, num_workers):
    dataset = with_sample_ids(TensorDataset(X, Y), ids=[10, 11, 12, 13, 14])
    loader = DataLoader(
        dataset, 2, num_workers=num_workers, collate_fn=collate_with_sample_ids(inner)
    )
    batches = list(loader)
    assert all(type(batch) is kind for batch in batches)
    assert [batch_sample_ids(batch) for batch in batches] == [[10, 11], [12, 13], [14]]
    x, _ = batches[0]
    assert torch.equal(x, X[:2])


@pytest.mark.parametrize("inner", [None, as_tuple, as_nested])
def test_pinning_keeps_ids(inner, monkeypatch):
    # Without an accelerator torch cannot pin; what is tested is that the batch is not rebuilt.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *a: self + 0)
    sample = with_sample_ids(TensorDataset(X, Y))[2]
    batch = collate_with_sample_ids(inner)([sample])
    pinned = pin_memory(batch)
    assert type(pinned) is type(batch)
    assert batch_sample_ids(pinned) == [2]
    first = pinned[0]["x"] if inner is as_nested else pinned[0]
    assert torch.equal(first, X[2:3])


def test_moving_reaches_nested_tensors():
    sample = with_sample_ids(TensorDataset(X, Y))[2]
    batch = collate_with_sample_ids(as_nested)([sample]).to("meta", non_blocking=True)
    assert batch[0]["x"].is_meta
    assert batch[1][0].is_meta
    assert batch[1][1] == "text"
    assert batch.sample_ids == [2]


def test_collate_and_batches_can_be_pickled():
    collate = pickle.loads(pickle.dumps(collate_with_sample_ids(as_tuple)))
    sample = pickle.loads(pickle.dumps(with_sample_ids(TensorDataset(X, Y))[1]))
    batch = pickle.loads(pickle.dumps(collate([sample])))
    assert batch_sample_ids(batch) == [1]


class Tiny(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.seen, self.steps = [], []

    def training_step(self, batch, batch_idx):
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        self.steps.append(batch_sample_ids(batch))
        return ((self.layer(x).squeeze(-1) - y) ** 2).mean()

    def on_train_batch_start(self, batch, batch_idx):
        self.seen.append(batch_sample_ids(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.parametrize("inner", [None, as_tuple, "dict"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_ids_reach_a_lightning_training_step(inner, num_workers, tmp_path):
    if inner == "dict":
        inner, data = None, [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
    else:
        data = TensorDataset(X, Y)
    loader = DataLoader(
        with_sample_ids(data, ids=list("abcde")),
        2,
        shuffle=True,
        num_workers=num_workers,
        collate_fn=collate_with_sample_ids(inner),
    )
    model = Tiny()
    L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(model, loader)
    assert model.seen == model.steps
    for epoch in (model.seen[:3], model.seen[3:]):
        assert sorted(name for ids in epoch for name in ids) == list("abcde")


# NUL ends a text in HDF5, so that no id may have one.
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.one_of(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(NAMES)))
def test_ids_survive_every_form_of_batch(ids):
    assert batch_sample_ids({"sample_id": ids}) == ids
    assert batch_sample_ids({"sample_id": tuple(ids)}) == ids
    if ids and isinstance(ids[0], int):
        assert batch_sample_ids({"sample_id": torch.tensor(ids)}) == ids
        assert batch_sample_ids({"sample_id": np.array(ids, dtype=np.int64)}) == ids


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([1.0]),
        torch.tensor([True]),
        torch.tensor([[1]]),
        torch.tensor(1),
        "abc",
        5,
        [1, "a"],
    ],
)
def test_unusable_batch_ids_are_refused(ids):
    with pytest.raises(DataError):
        batch_sample_ids({"sample_id": ids})


@pytest.mark.parametrize("batch", [{"x": X}, (X, Y), [X], X, {"sample_id": None}])
def test_missing_ids_name_the_way_out(batch):
    with pytest.raises(DataError, match=r"with_sample_ids\(dataset\).*collate_with_sample_ids"):
        batch_sample_ids(batch)


def test_labels_are_found_in_mappings_and_sequences():
    labels = torch.tensor([[1, -100]], dtype=torch.int32)
    assert batch_labels({"labels": labels}).dtype == torch.int64
    assert torch.equal(batch_labels({"targets": labels}, "targets"), labels.long())
    assert torch.equal(batch_labels((X, labels)), labels.long())
    assert torch.equal(batch_labels([labels, X], 0), labels.long())
    assert torch.equal(batch_labels({0: labels}, 0), labels.long())


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        ({"x": X}, "labels"),
        ({"labels": X}, "labels"),
        ({"labels": Y.long()}, "labels"),
        ({"labels": [[1, 2]]}, "labels"),
        ({"labels": X.bool()}, "labels"),
        ((X, Y), "labels"),
        (X, "labels"),
        ([], "labels"),
        ((X.long(),), 4),
    ],
)
def test_anything_but_token_labels_is_refused(batch, key):
    with pytest.raises(DataError):
        batch_labels(batch, key)
    if isinstance(batch, dict):
        with pytest.raises(DataError, match="causal-LM token labels"):
            batch_labels(batch, key)
