"""One id is one sample: two data sets that share ids are refused, own duplicates are not."""

from __future__ import annotations

import pytest
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from influcoder_lightning.data.sample_ids import with_sample_ids
from influcoder_lightning.data.shared_ids import refuse_shared_ids
from influcoder_lightning.errors import DataError


def rows(*ids):
    return [{"text": str(i), "id": i} for i in ids]


class Lazy(Dataset):
    """Samples that are made when they are asked for."""

    def __init__(self, samples):
        self.samples, self.asked = samples, 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.asked += 1
        return self.samples[index]


FIRST, SECOND = [("x", 1), ("x", 2)], [("y", 1), ("y", 2)]


@pytest.mark.parametrize(
    "made",
    [
        lambda: ConcatDataset([with_sample_ids(FIRST), with_sample_ids(SECOND)]),
        lambda: Subset(ConcatDataset([with_sample_ids(FIRST), with_sample_ids(SECOND)]), [0, 2]),
        lambda: ConcatDataset([with_sample_ids(rows("a", "b")), with_sample_ids(rows("b", "c"))]),
        lambda: ConcatDataset(
            [with_sample_ids(Lazy(rows("a", "b"))), with_sample_ids(Lazy(rows("b", "c")))]
        ),
        lambda: ConcatDataset([with_sample_ids(FIRST), with_sample_ids(SECOND, ids=["1", "z"])]),
    ],
    ids=["positions", "subset", "own ids", "lazy", "a number and its text"],
)
def test_an_id_of_two_sets_is_an_error_that_names_both(made):
    with pytest.raises(DataError, match=r"two samples have one id.*data set 1 .*data set 2 "):
        refuse_shared_ids(DataLoader(made()))


def test_several_loaders_are_one_pool():
    loaders = {"a": DataLoader(with_sample_ids(FIRST)), "b": DataLoader(with_sample_ids(SECOND))}
    with pytest.raises(DataError, match="two samples have one id"):
        refuse_shared_ids(loaders)


def test_what_is_the_users_own_stays():
    wrapped = with_sample_ids(FIRST)
    for data in (
        with_sample_ids(FIRST, ids=["a", "a"]),
        ConcatDataset([wrapped, wrapped]),
        ConcatDataset([with_sample_ids(FIRST), with_sample_ids(FIRST)]),
        Subset(ConcatDataset([with_sample_ids(FIRST), with_sample_ids(SECOND)]), [0, 3]),
        ConcatDataset([with_sample_ids(FIRST, ids=["a", "b"]), with_sample_ids(SECOND)]),
        ConcatDataset([FIRST, SECOND]),
    ):
        refuse_shared_ids(DataLoader(data))
    refuse_shared_ids([{"input_ids": 1}])
    refuse_shared_ids(None)


def test_one_set_is_not_read():
    lazy = Lazy(rows("a", "b"))
    refuse_shared_ids(DataLoader(with_sample_ids(lazy)))
    assert lazy.asked == 0
