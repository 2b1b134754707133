"""Ranking methods by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from influcoder_lightning.errors import RankingError, did_you_mean
from influcoder_lightning.influence.method import METHODS, Method, built_in, module_of, register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request, StoreReader

PLUGINS = "influcoder_lightning.methods"
"""Group of entry points: a method that an installed package brings along, under its name."""


def available_methods() -> list[str]:
    """Names of all ranking methods, sorted: built in, registered, or of an installed package."""
    return sorted({*built_in(), *METHODS, *entry_points(group=PLUGINS).names})


def get_method(name: str) -> Method:
    """The method of a name.

    Raises:
        RankingError: unknown name; lists the known ones. Or the package that brings the method
            cannot be imported.
    """
    if name not in METHODS:
        if name in built_in():
            importlib.import_module(module_of(name))
        else:
            for plugin in entry_points(group=PLUGINS, name=name):
                _load(plugin)
    if name not in METHODS:
        known = available_methods()
        raise RankingError(
            f"unknown ranking method {name!r}{did_you_mean(str(name), known)} "
            f"Known methods: {', '.join(known)}"
        )
    return METHODS[name]


def what_it_says(name: str) -> str | None:
    """How a method ranks; None for a method of an installed package that was not asked for yet."""
    known = name in METHODS or name in built_in()
    return get_method(name).says if known else None


def _load(plugin: EntryPoint) -> None:
    """Register the method of an installed package, unless its module does so when imported."""
    package = plugin.dist.name if plugin.dist is not None else plugin.module
    try:
        function = plugin.load()
    except Exception as error:  # whatever the package runs into
        raise RankingError(
            f"the ranking method {plugin.name!r} of the installed package {package} cannot be "
            f"imported from {plugin.value}: {type(error).__name__}: {error}. Repair or uninstall it"
        ) from error
    if not callable(function):
        raise RankingError(
            f"the ranking method {plugin.name!r} of the installed package {package} is "
            f"{plugin.value}, which is no function"
        )
    register(plugin.name)(function)


def rank(
    store: StoreReader | None,
    method: str = "cosine",
    queries: Iterable[object] | None = None,
    data: Iterable[object] | None = None,
    model: Any = None,
    **options: object,
) -> Ranking:
    """Score every sample of a store (or of `data`, for methods on text), higher = more helpful.

    Args:
        store: the influence store; None for methods on text alone.
        method: one of `available_methods()`.
        queries: None for all queries of the store, ids of some of them, or, for methods on text,
            rows with `prompt` and `response`.
        data: rows with `prompt`, `response` and optionally `id`, where the method needs text.
        model: a model, where the method needs one.
        options: of the method.

    Raises:
        RankingError: unknown method, option or query, or something the method needs is missing.
    """
    found = get_method(method)
    if unknown := found.refused(options):
        raise RankingError(
            f"method {method!r} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(found.options()) or 'none'}"
        )
    request = Request(
        method=method,
        store=store,
        # Listed once: a generator could not be read by both the check and the method.
        queries=None if queries is None else list(queries),
        data=data,
        model=model,
    )
    ranking = found.function(request, **options)
    path = getattr(store, "path", None)
    provenance = {
        "method": method,
        "options": dict(options),
        "store": None if path is None else str(path),
        "n_samples": len(ranking),
    }
    return ranking.described(method, {**provenance, **ranking.metadata})
