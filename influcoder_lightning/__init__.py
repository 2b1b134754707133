"""Which training samples help? Influence as a by-product of LoRA fine-tuning with Lightning."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from influcoder_lightning.renamed import RenamedModules

_EXPORTS = {
    "EpochLoader": "data.epochs",
    "InfluenceCallback": "callback.influence_callback",
    "InfluenceStore": "influence_store",
    "Ranking": "influence.ranking",
    "agreement": "influence.agreement",
    "available_methods": "influence.registry",
    "collate_samples": "data.tokenization",
    "collate_with_sample_ids": "data.sample_ids",
    "default_template": "data.encoders",
    "extract_features": "extract",
    "load_rows": "data.rows",
    "load_scores": "influence.score_files",
    "rank": "influence.registry",
    "register": "influence.method",
    "row_ids": "data.rows",
    "select": "selection.selection",
    "tokenize_rows": "data.tokenization",
    "with_sample_ids": "data.sample_ids",
    "write_jsonl": "data.rows",
    "write_report": "recipes.report",
}
"""Public name -> its file: the only way in that this package promises to keep."""

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package stays quick."""
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.meta_path.insert(0, RenamedModules(__name__))
