"""Ranking methods by name."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request, StoreReader

Method = Callable[..., Ranking]
_M = TypeVar("_M", bound=Method)

_BUILT_IN = {
    "cosine": "cosine",
    "projected_cosine": "projected_cosine",
    "tracin": "tracin",
    "less": "less",
    "fisher": "fisher",
    "relatif": "relatif",
    "unrolled": "unrolled",
    "self": "self_influence",
    "encoder": "encoder",
    "loss": "loss",
    "length": "length",
    "random": "random",
    "tfidf": "tfidf",
    "bm25": "bm25",
    "rds": "rds",
    "icp": "icp",
}
_METHODS: dict[str, Method] = {}
PLUGINS = "influcoder_lightning.methods"
"""Group of entry points: a method that an installed package brings along, under its name."""


def register(name: str) -> Callable[[_M], _M]:
    """Make a function available as `rank(method=name)`.

    It takes a `Request` and its own options as keyword arguments, and returns a `Ranking`.

    Raises:
        RankingError: the name belongs to another method.

    Example:
        >>> from influcoder_lightning.influence import Ranking, rank, register
        >>> @register("by_prompt")
        ... def by_prompt(request, *, sign=1):
        ...     ids, rows = request.data_rows()
        ...     return Ranking(ids, [sign * len(row["prompt"]) for row in rows])
        >>> rows = [{"prompt": "Hi", "response": "ho"}, {"prompt": "Hello", "response": "ho"}]
        >>> rank(None, "by_prompt", data=rows).top_k(1)
        [1]
    """

    def add(function: _M) -> _M:
        owner = f"{__package__}.{_BUILT_IN[name]}" if name in _BUILT_IN else None
        known = _METHODS.get(name)
        same = known is None or (known.__module__, known.__qualname__) == (
            function.__module__,
            function.__qualname__,
        )
        if not same or owner not in (None, function.__module__):
            raise RankingError(f"a ranking method {name!r} exists already; choose another name")
        _METHODS[name] = function
        return function

    return add


def available_methods() -> list[str]:
    """Names of all ranking methods, sorted: built in, registered, or of an installed package."""
    return sorted({*_BUILT_IN, *_METHODS, *entry_points(group=PLUGINS).names})


def get_method(name: str) -> Method:
    """The function behind a name.

    Raises:
        RankingError: unknown name; lists the known ones. Or the package that brings the method
            cannot be imported.
    """
    if name not in _METHODS:
        if name in _BUILT_IN:
            importlib.import_module(f"{__package__}.{_BUILT_IN[name]}")
        else:
            for plugin in entry_points(group=PLUGINS, name=name):
                _load(plugin)
    if name not in _METHODS:
        known = available_methods()
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise RankingError(
            f"unknown ranking method {name!r}{hint} Known methods: {', '.join(known)}"
        )
    return _METHODS[name]


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
    queries: Iterable[Any] | None = None,
    data: Iterable[Any] | None = None,
    model: Any = None,
    **options: Any,
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
    function = get_method(method)
    _, *accepted = inspect.signature(function).parameters.values()
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted)
    names = sorted(parameter.name for parameter in accepted)
    if not open_ended and (unknown := sorted(set(options) - set(names))):
        raise RankingError(
            f"method {method!r} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(names) or 'none'}"
        )
    request = Request(
        method=method,
        store=store,
        # Listed once: a generator could not be read by both the check and the method.
        queries=None if queries is None else list(queries),
        data=data,
        model=model,
    )
    ranking = function(request, **options)
    path = getattr(store, "path", None)
    provenance = {
        "method": method,
        "options": dict(options),
        "store": None if path is None else str(path),
        "n_samples": len(ranking),
    }
    return ranking.described(method, {**provenance, **ranking.metadata})
