"""Samples of two data sets that carry one id, as where two wrapped sets are concatenated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from influcoder_lightning.data.sample_ids import SampleIdDataset
from influcoder_lightning.errors import DataError
from influcoder_lightning.ids import SampleId
from influcoder_lightning.random_streams import streams_kept

Source = tuple[SampleIdDataset, Sequence[int] | None]
"""A wrapped set and the places of it that are used (None: all)."""

_MOST_READ = 100_000  # samples that are read at the start of a run to learn their ids


def refuse_shared_ids(loader: object) -> None:
    """Refuse data in which samples of two data sets have one id; nothing else would tell them.

    Duplicates within one set, and one set that is there twice, are the user's own and stay.

    Args:
        loader: of the training or the queries; several are in a list, a tuple or a dict.

    Raises:
        DataError: an id of two sets; the message names both.
    """
    sets: dict[int, tuple[SampleIdDataset, set[int]]] = {}  # by the wrapped set, with its places
    for dataset in _datasets(loader):
        for source, places in _sources(dataset):
            _, known = sets.setdefault(id(source.dataset), (source, set()))
            known.update(range(len(source)) if places is None else places)
    if len(sets) < 2:
        return
    owners: dict[str, tuple[int, SampleId]] = {}
    for number, (source, used) in enumerate(sets.values()):
        for sample_id in _ids(source, used):
            other, first = owners.setdefault(str(sample_id), (number, sample_id))
            if other != number:
                names = [_name(s, i) for i, (s, _) in enumerate(sets.values())]
                raise DataError(
                    f"two samples have one id: {first!r} of {names[other]} and {sample_id!r} of "
                    f"{names[number]}. Scores are by id, so they would become one. Give each set "
                    "ids of its own: with_sample_ids(dataset, ids=[f'a-{i}' for i in "
                    "range(len(dataset))])."
                )


def _datasets(loader: object) -> Iterator[object]:
    if isinstance(loader, Mapping):
        loader = list(loader.values())
    if isinstance(loader, list | tuple):
        for part in loader:
            yield from _datasets(part)
    elif (dataset := getattr(loader, "dataset", None)) is not None:
        yield dataset


def _sources(dataset: object) -> Iterator[Source]:
    """The wrapped sets inside ``dataset``, each with the places that are used (None: all)."""
    if isinstance(dataset, SampleIdDataset):
        yield dataset, None
        return
    parts, inner = getattr(dataset, "datasets", None), getattr(dataset, "dataset", None)
    places = getattr(dataset, "indices", None)
    if isinstance(parts, list | tuple):
        for part in parts:
            yield from _sources(part)
    elif places is None and inner is not None:
        yield from _sources(inner)
    elif inner is not None and places is not None:
        yield from _chosen(inner, [int(place) for place in places])


def _chosen(
    dataset: object, places: Sequence[int]
) -> Iterator[tuple[SampleIdDataset, Sequence[int] | None]]:
    """The wrapped sets inside a subset of ``dataset``."""
    if isinstance(dataset, SampleIdDataset):
        yield dataset, places
        return
    parts, inner = getattr(dataset, "datasets", None), getattr(dataset, "dataset", None)
    nested = getattr(dataset, "indices", None)
    if isinstance(parts, list | tuple):
        start = 0
        for part in parts:
            own = [place - start for place in places if start <= place < start + len(part)]
            start += len(part)
            yield from _chosen(part, own)
    elif inner is not None and nested is not None:
        yield from _chosen(inner, [int(nested[place]) for place in places])
    elif inner is not None:
        yield from _sources(inner)


def _ids(source: SampleIdDataset, places: set[int]) -> Iterator[SampleId]:
    every = sorted(places)
    if source.ids is not None:
        yield from (source.ids[place] for place in every)
        return
    with streams_kept():  # the data set may draw; the training's streams are not for it
        first = source.dataset[every[0]] if every else None
        if not isinstance(first, Mapping) or not (source.key in first or "id" in first):
            yield from every
            return
        if len(every) > _MOST_READ:
            return  # reading them would take too long
        for place in every:
            yield source.id_of(place)


def _name(source: SampleIdDataset, number: int) -> str:
    kind = type(source.dataset).__name__
    return f"data set {number + 1} ({kind}, {len(source)} samples)"
