"""The keys of recipe=fidelity."""

from __future__ import annotations

from dataclasses import dataclass, field

from influcoder_lightning.configuration.key import key


@dataclass(frozen=True)
class PoolParts:
    """Disjoint parts of data.pool, at least 3 samples each."""

    fit: int = key(1500, "samples to learn from")
    select: int = key(150, "samples to choose settings by")
    eval: int = key(300, "samples to measure on")


@dataclass(frozen=True)
class QueryParts:
    """Disjoint parts of data.query, at least 3 each."""

    fit: int = key(300, "queries to learn from")
    select: int = key(50, "queries to choose settings by")
    eval: int = key(100, "queries to measure on")


@dataclass(frozen=True)
class Distil:
    """The published Influcoder objective (needs influence.text_encoder)."""

    epochs: int = key(8, "passes over the samples to learn from")
    queries: int = key(8, "queries of a block")
    candidates: int = key(16, "samples of a block")
    lr: float = key(5e-05, "learning rate of AdamW")
    weight_decay: float = key(0.01, "of AdamW")
    warmup: float = key(0.1, "share of the steps in which the learning rate rises")
    alpha: float = key(0.5, "weight of the Pearson term, 0 to 1; the listwise KL has the rest")
    temperature: float = key(0.05, "of the softmax in the KL")
    hard_negatives: float = key(0.5, "share of the candidates that are hard")
    query_prefix: str = key(
        "Instruct: find training samples that teach this behaviour\nQuery: ",
        "before a query's text",
    )
    max_tokens: int | None = key(None, "of a text; null: as many as the encoder takes")
    bf16: bool = key(True, "train the encoder in bfloat16 autocast")


@dataclass(frozen=True)
class Fidelity:
    """Which cheap scores agree with exact gradients (recipe=fidelity)."""

    states: list[str] = key(
        ["fresh", "warm"],
        "of the adapter; warm: after one run of train.* over the pool to learn from",
    )
    n_pool: PoolParts = field(default_factory=PoolParts)
    n_query: QueryParts = field(default_factory=QueryParts)
    co_train: bool = key(True, "also co-train the towers while warming up")
    forward_blocks: list[int] = key([1, 2], "last blocks whose gradient the forward tower computes")
    curve: list[int] = key([75, 300, 1500], "pool samples learned from, besides n_pool.fit")
    cascade: list[float] = key(
        [0, 0.05, 0.1, 0.2, 0.4, 1], "shares of the samples that get exact gradients"
    )
    distil_curve: bool = key(False, "also distil at each size of the curve")
    distil: Distil = field(default_factory=Distil)
