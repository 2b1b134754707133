"""Which training samples help? Influence as a by-product of LoRA fine-tuning with Lightning."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from influcoder_lightning.renamed import RenamedModules

_EXPORTS = {
    "InfluenceCallback": "callback",
    "extract_features": "extract",
    "InfluenceStore": "store.reader",
    "Ranking": "influence.ranking",
    "rank": "influence.registry",
    "select": "selection.selection",
    "with_sample_ids": "data.sample_ids",
    "collate_with_sample_ids": "data.sample_ids",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package stays quick."""
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.meta_path.insert(0, RenamedModules(__name__))
