"""The processes of one run, one for each device: started, told what to do, ended.

Every process goes through the whole recipe, so that all take part in each training. Only the first
one writes into the run folder; what the others write goes into folders of theirs, which are thrown
away. What they must have in common, they find with `shared`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from influcoder_lightning import processes
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.optimizers import check_targets
from influcoder_lightning.finetune.trainers import trainer_of
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.run.trainer_keys import training_keys

_GRACE = 20.0  # seconds in which the first process may find out itself that another one has failed
_own: tuple[Path, Path] | None = None  # this process's folder, and that of the run


def shared(path: Path) -> Path:
    """The same path in the run folder, where this process's own is another one."""
    if _own is not None and path.is_relative_to(_own[0]):
        return _own[1] / path.relative_to(_own[0])
    return path


def is_first() -> bool:
    """Whether this process writes into the run folder."""
    return _own is None


@contextmanager
def together(cfg: Settings, folder: Path, command: Callable[[], list[str]]) -> Iterator[Path]:
    """The processes that ``trainer.devices`` asks for; alone where that is one.

    Args:
        cfg: settings of the run.
        folder: of the run.
        command: of a further process, which reads its task from standard input.

    Yields:
        The folder that this process writes into.

    Raises:
        ConfigError: the Trainer refuses what the section ``trainer`` says; an optimizer or a
            scheduler that there is not.
    """
    check_targets(cfg.optimizer, cfg.scheduler)
    trainer = trainer_of(training_keys(cfg)["trainer"], logger=False, enable_checkpointing=False)
    if trainer.world_size == 1:
        yield folder
        return
    if cfg.mode == "frozen":
        raise ConfigError("mode=frozen values on one device: leave trainer.devices=1.")
    before = dict(os.environ)
    with ExitStack() as ending:
        ending.callback(_restore, before)
        ending.callback(_leave)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            environment = launcher.cluster_environment
            if not environment.creates_processes_externally:
                task = json.dumps({"settings": plain(cfg), "folder": str(folder)})
                ending.callback(_end, _started(trainer, command(), task))
        ending.enter_context(processes.expecting(trainer.world_size))
        yield folder if trainer.global_rank == 0 else ending.enter_context(_elsewhere(folder))


def helping(settings: Settings, folder: Path) -> Any:
    """The same in a process that another one has started."""
    _end_with_parent()
    return together(settings, folder, list)


def _started(trainer: Trainer, command: list[str], task: str) -> list[subprocess.Popen[str]]:
    """Start the other processes of this machine."""
    launcher: Any = trainer.strategy.launcher
    environment = launcher.cluster_environment
    os.environ.setdefault("MASTER_ADDR", environment.main_address)
    os.environ.setdefault("MASTER_PORT", str(find_free_network_port()))
    os.environ["NODE_RANK"] = str(environment.node_rank())
    os.environ["LOCAL_RANK"] = "0"
    os.environ["WORLD_SIZE"] = str(trainer.world_size)
    others = []
    for rank in range(1, launcher.num_processes):
        other = subprocess.Popen(
            command,
            env=os.environ | {"LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # an interruption is for the first, which ends the others
        )
        assert other.stdin is not None
        other.stdin.write(task + "\n")
        other.stdin.flush()
        others.append(other)
    threading.Thread(target=_watch, args=(others,), daemon=True).start()
    return others


def _watch(others: list[subprocess.Popen[str]]) -> None:
    """End the run when another process has failed and the first one waits for it for ever."""
    while not any(other.poll() for other in others):
        if all(other.poll() == 0 for other in others):
            return
        time.sleep(0.5)
    failed = next(other for other in others if other.poll())
    time.sleep(_GRACE)
    if _ended.get(failed.pid):
        return
    print(
        f"influcoder: a process of this run (number {failed.pid}) ended with code "
        f"{failed.returncode}; the run cannot go on without it. What it said is above.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


_ended: dict[int, bool] = {}  # processes that were ended because the run is over


def _end(others: list[subprocess.Popen[str]]) -> None:
    """Nothing of what the others do is needed any more."""
    for other in others:
        _ended[other.pid] = True
        other.kill()
    for other in others:
        other.wait()
        if other.stdin is not None:
            other.stdin.close()


def _leave() -> None:
    """Lightning leaves the group to the interpreter's exit; the next run has another one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _restore(before: dict[str, str]) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]


@contextmanager
def _elsewhere(folder: Path) -> Iterator[Path]:
    """A folder of this process's own in place of the run folder."""
    global _own
    with tempfile.TemporaryDirectory(prefix="influcoder-", ignore_cleanup_errors=True) as own:
        _own = Path(own), folder
        try:
            yield Path(own)
        finally:
            _own = None


def _end_with_parent() -> None:
    """Standard input ends when the process that wrote to it does, however that happens."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
