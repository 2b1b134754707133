"""What a ranking method is asked, and how it gets at queries, rows and text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.rows import Row, TextRow
from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray, as_id_array, first_few, id_keys, repeated

if TYPE_CHECKING:
    import pandas as pd

Column = NDArray[Any]
"""Values of rows [R, ...]: of which kind is the column's own business."""


class TextEncoder(Protocol):
    """A text tower: rows with `prompt` and `response` to codes [n, d] float32."""

    def encode(self, rows: list[Row], /) -> NDArray[np.float32]:
        """L2-normalised codes of rows of text."""
        ...

    def expect(self, rows: list[Row], /) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Expected codes [n, d], shorter where unsure, and the confidence [n]."""
        ...


class StoreReader(Protocol):
    """What the methods read of an influence store; R rows in store order, M queries."""

    @property
    def sample_ids(self) -> IdArray:
        """Id of each row's sample [R], int64 or object array of str."""
        ...

    @property
    def query_ids(self) -> IdArray:
        """Ids of the queries [M]."""
        ...

    def column_names(self) -> list[str]:
        """Columns of the rows: window, n_tokens, loss, grad_norm, learning_rate, code, ..."""
        ...

    def column(self, name: str) -> Column:
        """One column of all rows [R]."""
        ...

    def blocks(
        self, names: Sequence[str], block_rows: int
    ) -> Iterator[tuple[slice, dict[str, Column]]]:
        """Stretches of at most `block_rows` rows in order, each with some columns [b, ...].

        The arrays are overwritten by the next block.
        """
        ...

    def query_codes(self, window: int | None = None, end: bool = False) -> NDArray[np.float16]:
        """L2-normalised codes [M, d] at the start of a window, or at the end of fit."""
        ...

    def query_records(self, window: int | None = None, end: bool = False) -> pd.DataFrame:
        """One line per query [M]: n_tokens, loss, grad_norm, ..."""
        ...

    def query_texts(self) -> Sequence[TextRow] | None:
        """Prompt and response of the queries [M], or None where unknown."""
        ...

    def text_tower(self) -> TextEncoder:
        """The encoder of text; StoreError where the run had none."""
        ...


@dataclass(frozen=True)
class Request:
    """One call of `rank`, handed to the method. Every getter raises `RankingError` with the cause.

    Attributes:
        method: the registered name.
        store: the store, or None for methods that work on text alone.
        queries: None (all of the store), query ids, or rows with prompt and response.
        data: rows with prompt and response, where the method needs text.
        model: a model, where the method needs one.
    """

    method: str
    store: StoreReader | None = None
    queries: Iterable[object] | None = None
    data: Iterable[object] | None = None
    model: Any = None

    def require_store(self) -> StoreReader:
        """The store."""
        if self.store is None:
            raise RankingError(
                f"method {self.method!r} works on a store and none was given; "
                "call InfluenceStore(path).rank(...)"
            )
        return self.store

    def query_positions(self) -> NDArray[np.int64]:
        """Positions of the chosen queries in `store.query_ids`, int64 [M], in the order asked."""
        known = self.require_store().query_ids
        if len(known) == 0:
            raise RankingError(
                f"method {self.method!r} compares samples with queries and the store has none; "
                "pass query_dataloader= to the callback, or add them with store.add_queries(...), "
                "or rank by 'self', 'loss' or 'length', which need none"
            )
        if self.queries is None:
            return np.arange(len(known), dtype=np.int64)
        asked = list(self.queries)
        if _are_rows(asked, self.method):
            raise RankingError(
                f"method {self.method!r} needs the gradient codes of the queries, and text has "
                "none; add them with store.add_queries(...), or use 'encoder' or 'tfidf'"
            )
        keys = id_keys(as_id_array(asked))
        if again := repeated(keys):
            raise RankingError(f"queries are named more than once: {first_few(again)}")
        places: dict[str, list[int]] = {}
        for place, key in enumerate(id_keys(known)):
            places.setdefault(key, []).append(place)
        if unknown := [key for key in keys if key not in places]:
            raise RankingError(
                f"{len(unknown)} of {len(keys)} query ids are not in the store: "
                f"{first_few(unknown)}; it has {len(known)}: {first_few(known.tolist())}"
            )
        return np.array([place for key in keys for place in places[key]], dtype=np.int64)

    def query_features(
        self, window: int | None, positions: NDArray[np.int64], end: bool = False
    ) -> NDArray[np.float16]:
        """Codes [M, d] of the chosen queries from one take."""
        store = self.require_store()
        codes = store.query_codes(window, end=end)
        if len(codes) != len(store.query_ids):
            take = "the end of fit" if end else f"the start of window {window}"
            raise RankingError(
                f"the store has codes of {len(codes)} of {len(store.query_ids)} queries at {take}; "
                "queries were added for other takes only; repeat store.add_queries(...)"
            )
        return codes[positions]

    def has_query_rows(self) -> bool:
        """Whether the queries were given as rows of text."""
        return self.queries is not None and _are_rows(list(self.queries), self.method)

    def query_rows(self) -> tuple[IdArray, list[Row]]:
        """Ids [M] and rows of the chosen queries as text."""
        if self.queries is not None and self.has_query_rows():
            return _text_rows(self.queries, "queries")
        store = self.require_store()
        positions = self.query_positions()
        texts = store.query_texts()
        if texts is None:
            raise RankingError(
                f"method {self.method!r} compares text and the store has no text of its queries; "
                "pass queries=[{'prompt': ..., 'response': ...}, ...]"
            )
        ids = store.query_ids[positions]
        return ids, _text_rows([texts[place] for place in positions], "store.query_texts()")[1]

    def data_rows(self) -> tuple[IdArray, list[Row]]:
        """Ids [R] and rows of the pool as text; an id is the row's `id`, else its position."""
        if self.data is None:
            raise RankingError(
                f"method {self.method!r} reads the text of the samples; "
                "pass data=[{'prompt': ..., 'response': ...}, ...]"
            )
        return _text_rows(self.data, "data")


def _are_rows(queries: list[object], method: str) -> bool:
    """Whether all queries are rows (True) or all are ids (False)."""
    if not queries:
        raise RankingError(
            f"method {method!r} got an empty list of queries; leave queries=None to use them all"
        )
    kinds = {isinstance(query, Mapping) for query in queries}
    if len(kinds) > 1:
        raise RankingError("queries mixes ids and rows; give either ids or rows")
    return kinds.pop()


def _text_rows(rows: Iterable[object], name: str) -> tuple[IdArray, list[Row]]:
    checked: list[Row] = []
    ids: list[object] = []
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise RankingError(
                f"{name}: row {place} is a {type(row).__name__}; give a list of "
                "{'prompt': str, 'response': str, optional 'id'}"
            )
        for key in ("prompt", "response"):
            if not isinstance(row.get(key), str):
                raise RankingError(
                    f"{name}: row {place} has {key}={row.get(key)!r:.60}, expected a string; "
                    "each row needs 'prompt' and 'response'"
                )
        given = row.get("id")
        ids.append(place if given is None else given)
        checked.append(dict(row))
    if not checked:
        raise RankingError(f"{name} is empty; give at least one row")
    return as_id_array(ids), checked
