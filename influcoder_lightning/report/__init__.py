"""Tables, figures and one page for people."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "Chart": "blocks",
    "Code": "blocks",
    "Figure": "blocks",
    "Files": "blocks",
    "Folded": "blocks",
    "GLOSSARY": "glossary",
    "Number": "blocks",
    "Numbers": "blocks",
    "Samples": "blocks",
    "Section": "blocks",
    "Table": "blocks",
    "Text": "blocks",
    "arms_table": "tables",
    "comparison_figure": "comparison",
    "headline_of": "headline",
    "plot_comparison": "comparison",
    "plot_ranking": "plots",
    "ranking_figure": "plots",
    "sample_table": "tables",
    "samples_of": "samples",
    "summarise_arms": "comparison",
    "write_comparison": "comparison",
    "write_page": "html",
    "write_report": "markdown",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    # Exports load on first use: matplotlib and scipy are slow to import.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
