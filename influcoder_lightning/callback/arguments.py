"""Arguments of the callback that a configuration file can hold, turned into what they stand for."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from influcoder_lightning.capture.losses import LossReduction, check_reduction
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.random_streams import streams_kept

_HOOK = "query_dataloader"


def resolve_reduction(reduction: Any) -> LossReduction:
    """A known name or a callable as it is; ``"package.module.function"`` as that function.

    Raises:
        ConfigError: neither, or nothing there.
    """
    if isinstance(reduction, str) and "." in reduction:
        reduction = resolve_function(reduction, "loss_reduction")
    check_reduction(reduction)
    return reduction


def resolve_function(function: Any, option: str) -> Any:
    """``"package.module.function"`` as that function; anything else as it is.

    Raises:
        ConfigError: nothing there.
    """
    if not isinstance(function, str):
        return function
    try:
        return pkgutil.resolve_name(function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"`{option}={function!r}` looks like the path of a function, but cannot be "
            f"imported: {error}."
        ) from error


def check_queries(batches: Any, source: str) -> None:
    """Refuse what cannot be read at the start of every window.

    Args:
        batches: query batches.
        source: where they come from, for the message.

    Raises:
        MisconfigurationException: they can be read once, or not at all.
    """
    if not isinstance(batches, Iterable) or isinstance(batches, str | bytes):
        raise MisconfigurationException(
            f"{source} is {_an(type(batches).__name__)}, not batches of queries. Give a DataLoader "
            "or a list of batches (None: no queries)."
        )
    if isinstance(batches, Iterator):  # iter() of a DataLoader would draw from the random stream
        raise MisconfigurationException(
            f"{source} is an iterator that can be read once; it is read at the start of every "
            "window. Give a DataLoader or a list of batches."
        )


def hooked_queries(trainer: Trainer, pl_module: LightningModule) -> Iterable[Any] | None:
    """What ``query_dataloader()`` of the datamodule or the module gives; None: no queries.

    The datamodule's comes first, as for Lightning's own loaders. Lightning leaves the loader as it
    is: with several processes each reads all queries.

    Raises:
        MisconfigurationException: it is no method, or does not give re-iterable batches.
    """
    datamodule = getattr(trainer, "datamodule", None)
    for owner in (datamodule, pl_module):
        hook = getattr(owner, _HOOK, None)
        if hook is None:
            continue
        source = f"`{type(owner).__name__}.{_HOOK}`"
        if not callable(hook):
            raise MisconfigurationException(
                f"{source} must be a method that returns the batches of queries. Make it one, or "
                f"pass them as `InfluenceCallback({_HOOK}=...)`."
            )
        with streams_kept():  # the training's random streams are not for it
            batches: Iterable[Any] | None = hook()
        if batches is not None:
            check_queries(batches, f"what {source} returns")
        return batches
    return None


def _an(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
