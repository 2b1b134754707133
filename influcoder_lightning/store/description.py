"""What ``run.json`` and the table of windows say, by type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict


class Bounds(TypedDict):
    """What a killed run may lose."""

    rows: int
    seconds: float


class Layout(TypedDict):
    """What the store of a run is made with; as the arguments of ``StoreWriter.create``."""

    code_dim: int
    code_dtype: NotRequired[str]
    sketch_dim: int
    keep_sketches: bool
    updates: NotRequired[bool]
    layers: Sequence[Sequence[str | int]]
    attributes: dict[str, Any]


class Counts(TypedDict):
    """Samples seen and kept out, by reason; in a store, also rows written."""

    seen: int
    kept_out: Mapping[str, int]
    written: NotRequired[int]


class Description(TypedDict):
    """A run: ``base_...`` is of the rows it had before it was resumed from a merged store."""

    world_size: int
    bounds: Bounds
    store: Layout
    generation: NotRequired[str]
    note: NotRequired[str]
    base_rows: NotRequired[list[int] | None]
    base_parts: NotRequired[list[int]]
    base_windows: NotRequired[int]
    base_queries: NotRequired[int]
    base_counts: NotRequired[Counts]


class Window(TypedDict):
    """An entry of the table of windows, see ``schema.WINDOW_COLUMNS``."""

    window: int
    epoch: int
    start_step: int
    end_step: int
    tower_version: int
    drift: float
    n_rows: int


class Pointer(TypedDict):
    """What a checkpoint holds of a valuation: the name of its state, and every process's hash.

    A training adds where the store is, and of which moment the state is.
    """

    state: str
    sha256: list[str]
    folder: NotRequired[str]
    step: NotRequired[int]
    moment: NotRequired[list[Any]]
    whole_step: NotRequired[bool]
