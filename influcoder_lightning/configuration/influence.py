"""The options of a valuation: those of the command, of the callback, and of `extract_features`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from influcoder_lightning.configuration.key import key

_TEXT_ENCODER = (
    "sentence-transformers folder or hub name to co-train; null: the text tower uses the model's "
    "own tokens"
)


@dataclass(frozen=True)
class Codes:
    """What is made of gradients, and how it is kept."""

    sanity_samples: int = key(
        2,
        "samples of the first captured batch that are compared one by one with what was captured; "
        "0: none",
        least=0,
    )
    projector: str = key(
        "countsketch",
        "how gradients are shortened: countsketch, identity (not at all), factored, rademacher "
        "(dense, slow)",
    )
    sketch_dim: int = key(
        8192,
        "numbers per sketch; more are closer to the exact gradients, and 4 bytes each while a row "
        "waits",
        least=1,
        most=2**24,
    )
    code_dim: int = key(512, "numbers per row in the store", least=1, most=2**16)
    code_dtype: str = key(
        "float16",
        "what these numbers are kept as: float16 (2 bytes each) or int8 (1 byte)",
        choices=("float16", "int8"),
    )
    co_train: bool = key(
        True,
        "learn the towers while training; false: codes are a fixed random projection, and no text "
        "tower",
    )
    keep_sketches: bool = key(
        False, "also store the float32 sketches: 4 x sketch_dim bytes per row"
    )
    optimizer_features: bool = key(
        False,
        "also store the update that the optimizer (Adam, AdamW or SGD) would make from each "
        "sample, for rank.method=less",
    )
    overwrite: bool = key(False, "replace a store that is already in the folder")
    segment_rows: int = key(2048, "rows that a killed run may lose, at most", least=1)
    segment_seconds: float = key(
        60.0, "seconds of work that a killed run may lose, at most", above=0
    )


@dataclass(frozen=True)
class Steps:
    """What is done at which steps of a training."""

    co_train_every_n_steps: int = key(
        10, "optimizer steps between steps of co-training the sentence encoder", least=1
    )
    every_n_train_steps: int = key(
        1, "capture each n-th optimizer step; samples of the others have no score", least=1
    )
    refresh_queries_every_n_steps: int | None = key(
        None,
        "optimizer steps per window, in which query gradients are taken once; null: an epoch",
        least=1,
    )


@dataclass(frozen=True)
class Influence(Steps, Codes):
    """Options of InfluenceCallback (valuate, pipeline, loop, lds, fidelity)."""

    text_encoder: str | None = key(None, _TEXT_ENCODER)


@dataclass(frozen=True)
class InPython(Codes):
    """Options that the callback and `extract_features` have in common."""

    text_encoder: Any = key(None, _TEXT_ENCODER)
    tokenizer: Any = key(
        None,
        "folder or hub name: turns token ids back into text for the text tower; null: batches "
        "carry prompt and response",
    )
    sample_id_key: str = key("sample_id", "key of the ids in a dict batch")
    labels_key: str | int = key(
        "labels", "key of the token labels in a dict batch; an index for tuple batches"
    )
    labels_shifted: bool = key(
        False,
        "true: the label at a position is that position's target, not the target of the position "
        "before",
    )
    read_batch: Callable[..., Any] | None = key(
        None,
        "path of a function batch -> (inputs, labels, ids), for batches that are no dicts or "
        "tuples; null: by the keys above",
    )
    batch_loss: Callable[..., Any] | None = key(
        None,
        "path of a function (module, batch) -> [B], the samples' mean response losses; null: the "
        "module's influence_losses, or the model's own forward",
    )
    seed: int = key(0, "of projector, towers and co-training")
    keep_states: int = key(3, "checkpoints that can be resumed from, the newest ones", least=1)
    allow_compiled: bool = key(False, "value a model that went through torch.compile")


@dataclass(frozen=True)
class OfCallback(Steps, InPython):
    """All options of the callback."""

    dirpath: Any = key(None, "folder of the store; null: influence/ in the Trainer's log directory")
    query_dataloader: Any = key(
        None,
        "null: what query_dataloader() of the datamodule or the module returns, where there is one",
    )
    loss_reduction: Any = key(
        "token_mean",
        "how the training loss weighs samples: token_mean, sample_mean, sum, or the path of a "
        "function batch -> weights [B]",
    )
    drift_warn: float = key(
        0.5,
        "warn when the queries' gradients turn below this cosine within a window; -1 to 1",
        least=-1,
        most=1,
    )
    on_error: str = key(
        "raise",
        "raise: trouble in the valuation ends the training; warn: only the valuation",
        choices=("raise", "warn"),
    )
    prog_bar: bool = key(False, "show the metrics influcoder/... in Lightning's progress bar")
