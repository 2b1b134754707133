"""Samples that a distributed sampler repeats so that every process gets equally many."""

from __future__ import annotations

from torch.utils.data import DistributedSampler

from influcoder_lightning.data.epochs import EpochLoader


def n_before_padding(loader: object) -> int | None:
    """How many samples of an epoch this process sees before its sampler's repeats begin.

    ``DistributedSampler`` deals the shuffled samples out in turn, process r of R getting positions
    r, r + R, ...; positions from the number of samples on repeat the first ones. An `EpochLoader`
    says it itself.

    Returns:
        None where nothing is repeated, or the loader has no distributed sampler that could say so.
    """
    if isinstance(loader, EpochLoader):
        return loader.n_before_padding()
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None)
    for found in (sampler, getattr(batch_sampler, "sampler", None), batch_sampler):
        if isinstance(found, DistributedSampler):
            if found.drop_last:
                return None
            n_samples = len(found.dataset)  # type: ignore[arg-type]  # sized, or it could not deal
            return len(range(found.rank, n_samples, found.num_replicas))
    return None
