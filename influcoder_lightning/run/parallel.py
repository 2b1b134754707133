"""How many trainings go side by side, and with how many threads."""

from __future__ import annotations

import os
import sys

import torch

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.processes import expected
from influcoder_lightning.run.settings import Settings

_WORTH = 90.0  # seconds of work left below which further processes only cost their start


def jobs_for(cfg: Settings, n_left: int, seconds_each: float) -> int:
    """How many of the trainings that are left go side by side.

    As many as ``parallel.jobs`` says; without it one for each device, or on a CPU one for each core
    (several trainings on one thread each do more than one after the other on all of them), as far
    as the memory goes. Where little is left to do, one.

    Args:
        cfg: settings.
        n_left: trainings.
        seconds_each: that the first one took.

    Raises:
        ConfigError: several are asked for, and each has several devices.
    """
    given = cfg.parallel.jobs
    if expected() > 1:
        if given is not None and given > 1:
            raise ConfigError(
                f"parallel.jobs={given} trainings side by side, each on trainer.devices="
                f"{cfg.trainer.devices}: give one of the two."
            )
        return 1
    if given is not None:
        return min(int(given), n_left)
    if n_left * seconds_each < _WORTH:
        return 1
    if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu":
        return min(torch.cuda.device_count(), n_left)
    cores = os.cpu_count() or 1
    return max(1, min(cores // (cfg.parallel.threads or 1), _in_memory(), n_left))


def _in_memory() -> int:
    """How many processes of this one's size the memory holds beside it."""
    if not sys.platform.startswith("linux"):
        return 1
    page = os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/statm", encoding="ascii") as file:
        own = int(file.read().split()[1]) * page
    return int(os.sysconf("SC_AVPHYS_PAGES") * page * 0.8 // own)
