"""The loggers that a run was asked for: `logger=csv`, `tensorboard`, `wandb`, or several."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.run.settings import Settings, literal, plain

_open: dict[Path, list[Logger]] = {}


def run_loggers(cfg: Settings, folder: Path) -> list[Logger]:
    """The loggers of a run, made when first asked for; all its steps share them.

    Args:
        cfg: the configuration; its section ``logger`` has a node ``{_target_: class, ...}`` for
            each. ``train.log_csv`` stands for the logger csv.
        folder: of the run. A ``save_dir`` is relative to it.

    Raises:
        ConfigError: a class that is no Lightning logger, a package that is not installed, or a
            ``save_dir`` outside the run folder.
    """
    if folder not in _open:
        section = dict(plain(cfg.logger)) if "logger" in cfg else {}
        if cfg.train.log_csv and "csv" not in section:
            target = "lightning.pytorch.loggers.CSVLogger"
            section["csv"] = {"_target_": target, "save_dir": ".", "name": "", "version": ""}
        loggers = [_logger(str(name), node, folder) for name, node in section.items()]
        for logger in loggers:
            if not isinstance(logger, CSVLogger):  # the run folder has config.yaml
                logger.log_hyperparams(plain(cfg))
        _open[folder] = loggers
    return _open[folder]


def close_loggers() -> None:
    """End the loggers of this run, so that a sweep's next one in this process has its own."""
    for loggers in _open.values():
        for logger in loggers:
            logger.finalize("success")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
    _open.clear()


def _logger(name: str, node: object, folder: Path) -> Logger:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"logger.{name} is no logger: give logger=csv, tensorboard, wandb or several, like "
            "logger=[csv,wandb]; or a node of your own with the class as _target_."
        )
    try:
        kind = get_class(str(node["_target_"]))
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"logger.{name}._target_={node['_target_']}: {error}") from error
    if not issubclass(kind, Logger):
        raise ConfigError(f"logger.{name}._target_={node['_target_']} is no Lightning logger.")
    options = dict(node)
    if "save_dir" in inspect.signature(kind).parameters:
        options["save_dir"] = str(_inside(folder, str(options.get("save_dir") or "."), name))
    try:
        logger = instantiate(literal(options))
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise ConfigError(
                f"logger={name} needs a package that is not installed: pip install {name}"
            ) from error
        raise ConfigError(f"logger.{name}: {error.__cause__ or error}") from error
    assert isinstance(logger, Logger)
    return logger


def _inside(folder: Path, save_dir: str, name: str) -> Path:
    path = (folder / save_dir).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(
            f"logger.{name}.save_dir={save_dir} is outside the run folder, where nothing is "
            "written; give a folder below it."
        )
    return path
