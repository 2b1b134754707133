"""Modules under the names they had in release 0.1: importable for one release more, with a warning.

Nothing here is imported until somebody asks for such a name.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_METHODS = (
    *("bm25", "cosine", "encoder", "fisher", "icp", "length", "less", "loss", "projected_cosine"),
    *("random", "rds", "relatif", "tfidf", "tracin", "unrolled"),
)
_PRESS = ("blocks", "explorer", "glossary", "html", "markdown", "style", "svg", "units")
_FINDINGS = (
    "ambiguous",
    "comparison",
    "cost",
    "distribution",
    "drift",
    "headline",
    "samples",
    "tables",
)
_NOW = {
    "capture.late": "capture.late_blocks",
    "capture.observer": "capture.loss_observer",
    "data.files": "files",
    "data.ids": "ids",
    "durable": "files",
    "influence.atomic": "files",
    "influence.ids": "ids",
    "influence.part": "influence.part_of_store",
    "influence.several": "influence.rank_several",
    "counterfactual": "studies.retraining",
    "diversity": "selection.diversity",
    "ending": "cli.exit",
    "fidelity.agreement": "studies.fidelity.rank_correlation",
    "fidelity.board": "studies.fidelity.method_rows",
    "fidelity": "studies.fidelity",
    **{f"influence.{name}": f"influence.methods.{name}" for name in _METHODS},
    "influence.self_influence": "influence.methods.self",
    "keys": "cli.keys",
    "models": "finetune.models",
    "probing": "influence.probing",
    **{f"report.{name}": f"report.press.{name}" for name in _PRESS},
    "recipes.closing": "cli.summary",
    "recipes.config_kinds": "run.config_values",
    "recipes.display": "run.live_line",
    "recipes.loggers": "run.loggers",
    "recipes.materials": "run.materials",
    "recipes.page": "recipes.pages.common",
    "recipes.parts": "run.finished_parts",
    "recipes.progress": "run.progress",
    "recipes.run_folder": "run.run_folder",
    "recipes.score_page": "recipes.pages.score",
    "recipes.stages": "run.stages",
    "recipes.valuation_page": "recipes.pages.valuation",
    "recorder": "valuation.recorder",
    "recovery": "valuation.finish",
    "report.loggers": "report.logged_results",
    "report.agreement": "report.findings.two_rankings",
    **{f"report.{name}": f"report.findings.{name}" for name in _FINDINGS},
    "report.duplicates": "report.findings.near_copies",
    "report.heatmap": "report.findings.method_agreement",
    "report.plots": "report.findings.ranking_curve",
    "resume": "valuation.resume",
    "scoring.parts": "scoring.sealed_parts",
    "store.layout": "store.soundness",
    "store.reader": "influence_store",
    "store.reading": "store.columns",
    "training": "callback",
}
"""Module in 0.1 -> module now; those inside a package go along."""
_HANDED_ON = {
    "data": {
        "data.epochs": "EpochLoader",
        "data.overlap": "check_overlap",
        "data.rows": "load_rows row_ids write_jsonl",
        "data.sample_ids": (
            "SampleIdCollator SampleIdDataset batch_labels batch_sample_ids "
            "collate_with_sample_ids with_sample_ids"
        ),
        "data.skills": "SKILLS SkillData make_skill_data",
        "data.encoders": "default_template",
        "data.template": "Template",
        "data.tiny_model": "build_tiny_llama build_tokenizer pretrain",
        "data.tokenization": (
            "SampleCollator TokenizedDataset TruncationReport collate_samples tokenize_rows"
        ),
    },
    "extract": {
        "valuation.new_queries": "add_queries",
    },
    "influence": {
        "influence.ranking": "Ranking",
        "influence.method": "register",
        "influence.registry": "available_methods rank",
    },
    "report": {
        "report.findings.comparison": (
            "comparison_figure plot_comparison summarise_arms write_comparison"
        ),
        "report.findings.headline": "headline_of",
        "report.findings.ranking_curve": "plot_ranking ranking_figure",
        "report.findings.samples": "samples_of",
        "report.findings.tables": "arms_table sample_table",
        "report.press.blocks": (
            "Chart Code Figure Files Folded Number Numbers Samples Section Table Text"
        ),
        "report.press.glossary": "GLOSSARY",
        "report.press.html": "write_page",
        "report.press.markdown": "write_report",
    },
    "store": {
        "influence_store": "InfluenceStore",
    },
}
"""Package or module of 0.1 -> file today -> names of it that were found there in 0.1."""


class RenamedModules(MetaPathFinder, Loader):
    """Finds a module of this package under its old name; asked before all other finders.

    Else a module inside a renamed package would be found twice, as two modules.

    Args:
        package: name of this package.
    """

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The old name's spec; None where the name is none of ours."""
        return None if self._new_name(fullname) is None else ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of today in the place of the one asked for."""
        new = self._new_name(module.__name__)
        assert new is not None
        _warn(module.__name__, new, stacklevel=3)
        sys.modules[module.__name__] = importlib.import_module(new)

    def _new_name(self, fullname: str) -> str | None:
        package, _, inside = fullname.partition(".")
        if package != self._package:
            return None
        for old, new in _NOW.items():
            if inside == old or inside.startswith(f"{old}."):
                return f"{package}.{new}{inside.removeprefix(old)}"
        return None


def names_of_module(package: str, module: str) -> Callable[[str], Any]:
    """`__getattr__` of a package that was a module: finds what the module held.

    Args:
        package: full name of the package.
        module: the file in it that the module became.
    """

    def find(name: str) -> Any:
        new = f"{package}.{module}"
        # `from package import file` asks here first, and must not load the module for it.
        is_file = find_spec(f"{package}.{name}") is not None
        if is_file or name.startswith("__") or not hasattr(importlib.import_module(new), name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        _warn(f"{package}.{name}", f"{new}.{name}", stacklevel=3)
        return getattr(sys.modules[new], name)

    return find


def names_of_files(package: str) -> Callable[[str], Any]:
    """`__getattr__` of a package that handed on names of its files.

    Args:
        package: its full name.
    """
    root, _, inside = package.partition(".")

    def find(name: str) -> Any:
        for file, names in _HANDED_ON[inside].items():
            if name in names.split():
                new = f"{root}.{file}"
                _warn(f"{package}.{name}", f"{new}.{name}", stacklevel=3)
                return getattr(importlib.import_module(new), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(
        f"{old} is now {new}; the old name goes in the next release",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
