"""Whether a ranking method has what it needs: asked before an hour has gone into a run."""

from __future__ import annotations

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.influence.method import OF_VALUED, Method
from influcoder_lightning.influence.registry import get_method
from influcoder_lightning.run.settings import Settings


def check_for_valuation(cfg: Settings, n_queries: int) -> None:
    """Refuse a method that could not rank what a valuation will have.

    Raises:
        ConfigError: no model, queries or optimizer's updates where the method needs them.
    """
    method = get_method(cfg.rank.method)
    _refuse_model(method)
    if not n_queries and method.requires("queries"):
        raise ConfigError(
            f"rank.method={method.name} ranks by queries: give data.query=<file>, or a method that "
            "needs none, like rank.method=self."
        )
    if method.requires("updates") and not cfg.influence.optimizer_features:
        raise ConfigError(f"rank.method={method.name} needs influence.optimizer_features=true.")


def check_for_new_rows(cfg: Settings, valued_pool: str) -> None:
    """Refuse a method that says it reads more of the samples than their text.

    Raises:
        ConfigError: it needs a model, or what only samples of a valuation have.
    """
    method = get_method(cfg.rank.method)
    _refuse_model(method)
    if method.needs is not None and method.needs & OF_VALUED:
        what = "the records" if method.requires("records") else "the gradients"
        raise ConfigError(
            f"rank.method={method.name} needs {what} of the samples, and {cfg.data.pool}"
            f" is not the pool that was valued ({valued_pool}). Use rank.method=encoder, "
            "which works from text."
        )


def _refuse_model(method: Method) -> None:
    if method.requires("model"):
        raise ConfigError(
            f"rank.method={method.name} asks a model, not a valuation: use recipe=icp, or "
            f"recipe=lds lds.methods=[{method.name}]."
        )
