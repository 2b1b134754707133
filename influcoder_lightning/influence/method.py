"""A ranking method: its function, what it needs, and what it says of itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.ranking import Ranking

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
