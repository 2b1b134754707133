"""A ranking method: its function, what it needs, and what it says of itself."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.ranking import Ranking

_F = TypeVar("_F", bound=Callable[..., Ranking])
_FOLDER = Path(__file__).with_name("methods")

NEEDS = {
    "gradients": "gradients of the samples, as a valuation captured them",
    "records": "what a valuation noted of the samples' steps: their ids, tokens and losses",
    "updates": "the optimizer's updates by the samples (optimizer_features)",
    "queries": "queries, which the samples are compared with",
    "text": "prompt and response of the samples",
    "tower": "the run's encoder of text",
    "model": "a model to run, with its tokenizer",
}
"""What a method can need."""

OF_VALUED = frozenset({"gradients", "records", "updates"})
"""Needs that only samples of a valuation meet."""


@dataclass(frozen=True)
class Method:
    """What is registered under a name.

    Attributes:
        name: as in `rank(method=name)`.
        function: from a `Request` and options to a `Ranking`.
        needs: keys of `NEEDS`; None where the method does not say.
        says: how it ranks, in one sentence for reports; None where the method does not say.
    """

    name: str
    function: Callable[..., Ranking]
    needs: frozenset[str] | None = None
    says: str | None = None

    def __post_init__(self) -> None:
        if unknown := sorted((self.needs or frozenset()) - set(NEEDS)):
            raise RankingError(
                f"ranking method {self.name!r} declares needs={unknown}; "
                f"a method can need {', '.join(NEEDS)}"
            )

    def requires(self, need: str) -> bool:
        """Whether the method says that it needs something."""
        return self.needs is not None and need in self.needs

    def refused(self, options: Iterable[str]) -> list[str]:
        """Those options that the function does not take, sorted."""
        parameters = self._parameters()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return []
        return sorted(set(options) - set(self.options()))

    def options(self) -> list[str]:
        """Names of the function's options, sorted."""
        return sorted(parameter.name for parameter in self._parameters())

    def _parameters(self) -> list[inspect.Parameter]:
        _, *accepted = inspect.signature(self.function).parameters.values()
        return accepted


METHODS: dict[str, Method] = {}
"""Methods that are registered; see `registry.get_method` for the others."""


def register(
    name: str, *, needs: Iterable[str] | None = None, says: str | None = None
) -> Callable[[_F], _F]:
    """Make a function available as `rank(method=name)`.

    It takes a `Request` and its own options as keyword arguments, and returns a `Ranking`.

    Args:
        name: of the method.
        needs: what it works on: some of "gradients", "records" (ids, tokens and losses of the
            steps) and "updates" of samples that were valued, "queries", "text", "tower" (a run's
            encoder of text), "model". The recipes refuse a method before an hour has gone into
            what it needs. None: it does not say, and shows when it runs.
        says: how it ranks, in one sentence that reports show with its name.

    Raises:
        RankingError: the name belongs to another method, or an unknown need.

    Example:
        >>> from influcoder_lightning.influence.ranking import Ranking
        >>> from influcoder_lightning.influence.registry import rank, register
        >>> @register("by_prompt", needs={"text"})
        ... def by_prompt(request, *, sign=1):
        ...     ids, rows = request.data_rows()
        ...     return Ranking(ids, [sign * len(row["prompt"]) for row in rows])
        >>> rows = [{"prompt": "Hi", "response": "ho"}, {"prompt": "Hello", "response": "ho"}]
        >>> rank(None, "by_prompt", data=rows).top_k(1)
        [1]
    """
    if isinstance(needs, str):  # else its letters would be the needs
        needs = [needs]

    def add(function: _F) -> _F:
        owner = module_of(name) if name in built_in() else None
        known = METHODS.get(name)
        same = known is None or (known.function.__module__, known.function.__qualname__) == (
            function.__module__,
            function.__qualname__,
        )
        if not same or owner not in (None, function.__module__):
            raise RankingError(f"a ranking method {name!r} exists already; choose another name")
        METHODS[name] = Method(name, function, None if needs is None else frozenset(needs), says)
        return function

    return add


@cache
def built_in() -> frozenset[str]:
    """Names of the package's own methods, each that of its file."""
    return frozenset(module.name for module in pkgutil.iter_modules([str(_FOLDER)]))


def module_of(name: str) -> str:
    """The module of a method of the package."""
    return f"{__package__}.{_FOLDER.name}.{name}"
