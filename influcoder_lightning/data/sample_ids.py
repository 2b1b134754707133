"""Stable ids that travel with every sample from the dataset, through the collate, to the callback.

The one line for users::

    DataLoader(with_sample_ids(dataset), collate_fn=collate_with_sample_ids(old_collate))

Dict samples and batches carry the ids under a key. Tuples and lists carry them as an attribute, so
that ``x, y = batch`` sees exactly what it saw before.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch.utils.data import Dataset, IterableDataset, default_collate

from influcoder_lightning.devices import moved
from influcoder_lightning.errors import DataError
from influcoder_lightning.ids import SampleId, checked_id, checked_ids

_WAY_OUT = (
    "Build the loader as DataLoader(with_sample_ids(dataset), "
    "collate_fn=collate_with_sample_ids(your_collate))."
)

_NESTED = (
    "Of a nested batch, an object with attributes, or the batches of several loaders, "
    "read_batch=... says what the inputs, labels and ids are."
)


@runtime_checkable
class _Pinnable(Protocol):
    def pin_memory(self) -> object: ...


class SampleTuple(tuple):
    """A tuple sample with its ``sample_id``; ``plain`` is the sample as the dataset gave it."""

    sample_id: SampleId
    plain: object


class SampleList(list):
    """A list sample with its ``sample_id``; ``plain`` is the sample as the dataset gave it."""

    sample_id: SampleId
    plain: object


class _IdCarrier:
    """Batch transfer that keeps ``sample_ids``.

    Lightning's batch transfer and torch's pinning rebuild tuples and lists without their
    attributes, unless the object brings its own ``to`` and ``pin_memory``.
    """

    sample_ids: list[SampleId]

    def to(self, device: torch.device | str, non_blocking: bool = False, **_: object) -> Self:
        """The batch with all tensors on ``device``; Lightning decides about ``non_blocking``."""
        return self._rebuilt(moved(self._plain(), device))

    def pin_memory(self, device: object = None) -> Self:
        """The batch with all tensors in pinned memory."""
        pinned = apply_to_collection(self._plain(), _Pinnable, lambda item: item.pin_memory())
        return self._rebuilt(pinned)

    def _plain(self) -> object:
        return tuple(self) if isinstance(self, tuple) else list(self)  # type: ignore[call-overload]  # a mixin: one or the other

    def _rebuilt(self, items: object) -> Self:
        batch = type(self)(items)  # type: ignore[call-arg]  # as list and tuple take them
        batch.sample_ids = self.sample_ids
        return batch


class IdList(_IdCarrier, list):
    """A list batch with the attribute ``sample_ids``."""


class IdTuple(_IdCarrier, tuple):
    """A tuple batch with the attribute ``sample_ids``."""


@functools.cache
def _named_carrier(kind: type) -> Any:
    """A subclass of the named tuple ``kind`` with the attribute ``sample_ids``."""

    def rebuilt(self: Any, items: Iterable[object]) -> object:
        return _named_batch(kind, tuple(items), self.sample_ids)

    def reduced(self: Any) -> tuple[object, ...]:
        return _named_batch, (kind, tuple(self), self.sample_ids)

    return type(
        f"Id{kind.__name__}", (_IdCarrier, kind), {"_rebuilt": rebuilt, "__reduce__": reduced}
    )


def _named_batch(kind: type, items: tuple[object, ...], ids: list[SampleId]) -> Any:
    batch = _named_carrier(kind)(*items)
    batch.sample_ids = ids
    return batch


class SampleIdDataset(Dataset):
    """A map-style dataset whose samples carry their id; made by :func:`with_sample_ids`."""

    def __init__(
        self, dataset: Any, ids: Sequence[SampleId] | None = None, key: str = "sample_id"
    ) -> None:
        self.dataset, self.key = dataset, key
        self.ids = None if ids is None else [checked_id(value, "ids") for value in ids]
        if self.ids is not None and len({type(value) for value in self.ids}) > 1:
            raise DataError("ids mixes integers and strings. Make all of them strings.")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> object:
        index = int(index)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a dataset with {len(self)} samples")
        sample = self.dataset[index]
        if isinstance(sample, Mapping):
            return {**sample, self.key: self._mapping_id(sample, index)}
        if isinstance(sample, tuple | list):
            carrier = SampleTuple(sample) if isinstance(sample, tuple) else SampleList(sample)
            carrier.sample_id = index if self.ids is None else self.ids[index]
            carrier.plain = sample
            return carrier
        raise DataError(
            f"sample {index} is a {type(sample).__name__}, which cannot carry an id. Let the "
            "dataset return a dict, a tuple or a list."
        )

    def id_of(self, index: int) -> SampleId:
        """The id of a sample; reads the sample where only it knows."""
        if self.ids is not None:
            return self.ids[index]
        sample = self.dataset[index]
        return self._mapping_id(sample, index) if isinstance(sample, Mapping) else index

    def _mapping_id(self, sample: Mapping[str, object], index: int) -> SampleId:
        given = sample.get(self.key)
        if given is None and self.ids is not None:
            return self.ids[index]
        if given is None:
            given = sample.get("id")
        own = index if given is None else checked_id(given, f"sample {index}")
        if self.ids is not None and own != self.ids[index]:
            raise DataError(
                f"sample {index} already has {self.key!r} {own!r}, but ids gives it "
                f"{self.ids[index]!r}. Drop one of the two, or choose another key."
            )
        return own


def with_sample_ids(
    dataset: Any, ids: Sequence[SampleId] | None = None, key: str = "sample_id"
) -> SampleIdDataset:
    """Wrap a map-style dataset so that each sample carries its id.

    Args:
        dataset: Gives dicts, tuples or lists of anything.
        ids: One integer or string per sample. Default: what a dict sample has under ``key``, else
            under ``"id"``, else the zero-based index.
        key: Where dict samples carry the id. Tuples and lists carry it as attribute ``sample_id``.

    Raises:
        DataError: For iterable datasets, a wrong number of ids, or ids of another type.
    """
    if isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    ):
        raise DataError(
            f"{type(dataset).__name__} is not a map-style dataset (__getitem__ and __len__), so "
            "its samples have no stable index. Let it yield the id itself: dict samples with "
            f"the key {key!r}; then only collate_with_sample_ids is needed."
        )
    if ids is not None and len(ids) != len(dataset):
        raise DataError(f"{len(ids)} ids for {len(dataset)} samples. Give one id per sample.")
    return SampleIdDataset(dataset, ids, key)


class SampleIdCollator:
    """Collate function that keeps sample ids; made by :func:`collate_with_sample_ids`."""

    def __init__(
        self, collate_fn: Callable[[list[Any]], object] | None = None, key: str = "sample_id"
    ) -> None:
        self.collate_fn = default_collate if collate_fn is None else collate_fn
        self.key = key

    def __call__(self, samples: Sequence[object]) -> object:
        """Collate the plain samples, then put their ids back on the batch."""
        pairs = [self._split(sample) for sample in samples]
        ids = checked_ids([sample_id for _, sample_id in pairs])
        batch = self.collate_fn([sample for sample, _ in pairs])
        if isinstance(batch, MutableMapping):
            batch = copy.copy(batch)
            batch[self.key] = ids_for_batch(ids)
            return batch
        if isinstance(batch, Mapping):
            return {**batch, self.key: ids_for_batch(ids)}
        if isinstance(batch, tuple) and hasattr(batch, "_fields"):
            return _named_batch(type(batch), batch, ids)
        if isinstance(batch, tuple | list):
            carrier = IdTuple(batch) if isinstance(batch, tuple) else IdList(batch)
            carrier.sample_ids = ids
            return carrier
        if dataclasses.is_dataclass(batch) and hasattr(batch, "__dict__"):
            twin = copy.copy(batch)
            object.__setattr__(twin, "sample_ids", ids)  # also where it is frozen
            return twin
        raise DataError(
            f"the collate function returned a {type(batch).__name__}, which cannot carry "
            "sample ids. Let it return a dict, a list, a tuple or a dataclass."
        )

    def _split(self, sample: object) -> tuple[object, object]:
        if isinstance(sample, SampleTuple | SampleList):
            return sample.plain, sample.sample_id
        if isinstance(sample, Mapping) and self.key in sample:
            return {k: v for k, v in sample.items() if k != self.key}, sample[self.key]
        raise DataError(f"a {type(sample).__name__} sample has no sample id. {_WAY_OUT}")


def collate_with_sample_ids(
    collate_fn: Callable[[list[Any]], object] | None = None, key: str = "sample_id"
) -> SampleIdCollator:
    """Wrap a collate function so that the batch carries the ids of its samples.

    The inner collate (default: torch's ``default_collate``) sees plain samples without ids. A dict
    batch gets ``batch[key]``, int64 tensor [B] or list of B strings; a list, tuple, named tuple or
    dataclass gets the attribute ``sample_ids``, which survives worker processes, pinned memory and
    Lightning's batch transfer. Slices and copies made by hand (``batch[:1]``, ``tuple(batch)``)
    lose it.

    Raises:
        DataError: When a sample has no id, or the batch is of a type that cannot carry ids.
    """
    return SampleIdCollator(collate_fn, key)


def ids_for_batch(ids: Sequence[SampleId]) -> torch.Tensor | list[SampleId]:
    """Ids as a dict batch carries them: int64 tensor [B], or a list of B strings."""
    if ids and all(isinstance(value, int) for value in ids):
        return torch.tensor(ids, dtype=torch.int64)
    return list(ids)


def batch_sample_ids(batch: object, key: str = "sample_id") -> list[SampleId]:
    """The ids of a batch's samples, list [B] of int or of str.

    Raises:
        DataError: When the batch carries no ids, or something else than integers or strings.
    """
    if isinstance(batch, Mapping):
        if batch.get(key) is None:
            raise DataError(
                f"the batch has no {key!r} (its keys: {', '.join(map(str, batch))}). {_WAY_OUT}"
            )
        return checked_ids(batch[key])
    found = getattr(batch, "sample_ids", None)
    if found is None:
        raise DataError(
            f"the {type(batch).__name__} batch has no attribute 'sample_ids'. {_WAY_OUT} A hook "
            "that rebuilds the batch (on_before_batch_transfer, transfer_batch_to_device) must "
            "keep the attribute; pin_memory and Lightning's own transfer do."
        )
    return checked_ids(found)


def batch_labels(batch: object, key: str | int = "labels") -> torch.Tensor:
    """The token labels of a batch, integer tensor [B, T] with -100 where there is no loss.

    Args:
        batch: A mapping (element ``key``), or a list or tuple: element ``key`` if that is an
            integer, else the last element.
        key: Where the labels are.

    Raises:
        DataError: When there are none, or they are not a 2-D integer tensor.
    """
    scope = "Influence is defined here for causal-LM token labels, [batch, tokens]."
    if not isinstance(key, str | int):
        raise DataError(f"labels_key={key!r:.60} is neither a name nor a place in the batch.")
    if isinstance(batch, Mapping):
        if key not in batch:
            raise DataError(
                f"the batch has no {key!r} (its keys: {', '.join(map(str, batch))}). {scope} "
                f"Name them with labels_key=... {_NESTED}"
            )
        labels = batch[key]
    elif isinstance(batch, tuple | list) and batch:
        try:
            labels = batch[key if isinstance(key, int) else -1]
        except IndexError:
            raise DataError(f"the batch has {len(batch)} elements, none at {key}.") from None
    else:
        raise DataError(
            f"a {type(batch).__name__} batch has no labels to be found. {scope} {_NESTED}"
        )
    if (
        not isinstance(labels, torch.Tensor)
        or labels.dim() != 2
        or labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8)
    ):
        what = (
            f"a {tuple(labels.shape)} tensor of {labels.dtype}"
            if isinstance(labels, torch.Tensor)
            else f"a {type(labels).__name__}"
        )
        nested = f" {_NESTED}" if isinstance(labels, Mapping | list | tuple) else ""
        raise DataError(f"labels must be a 2-D integer tensor, not {what}. {scope}{nested}")
    return labels.long()
