"""From codes (or text, or records) to one score per sample: one small file per method."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influcoder_lightning.influence.ranking import Ranking
    from influcoder_lightning.influence.registry import available_methods, rank, register

__all__ = ["Ranking", "available_methods", "rank", "register"]

_EXPORTS = {
    "Ranking": "ranking",
    "available_methods": "registry",
    "rank": "registry",
    "register": "registry",
}


def __getattr__(name: str) -> Any:
    """Import an export on first use, so that importing the package stays light."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
