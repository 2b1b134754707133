"""Tables, figures and one page for people."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "Chart": "press.blocks",
    "Code": "press.blocks",
    "Figure": "press.blocks",
    "Files": "press.blocks",
    "Folded": "press.blocks",
    "GLOSSARY": "press.glossary",
    "Number": "press.blocks",
    "Numbers": "press.blocks",
    "Samples": "press.blocks",
    "Section": "press.blocks",
    "Table": "press.blocks",
    "Text": "press.blocks",
    "arms_table": "findings.tables",
    "comparison_figure": "findings.comparison",
    "headline_of": "findings.headline",
    "plot_comparison": "findings.comparison",
    "plot_ranking": "findings.ranking_curve",
    "ranking_figure": "findings.ranking_curve",
    "sample_table": "findings.tables",
    "samples_of": "findings.samples",
    "summarise_arms": "findings.comparison",
    "write_comparison": "findings.comparison",
    "write_page": "press.html",
    "write_report": "press.markdown",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    # Exports load on first use: matplotlib and scipy are slow to import.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
