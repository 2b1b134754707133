"""Groups of samples from which a model learns nearly the same, among the selected ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.errors import RankingError, StoreError
from influcoder_lightning.ids import IdArray
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.row_scores import unit_rows
from influcoder_lightning.report.press.blocks import Section, Table, Text
from influcoder_lightning.selection.diversity import MAX_SIMILARITY

MOST = 20_000  # samples that are compared with each other
_BLOCK = 512
_GROUPS, _MEMBERS = 8, 4  # that are shown


@dataclass(frozen=True)
class NearCopies:
    """Near-copies among k samples.

    Attributes:
        n: samples that were compared.
        groups: positions of the members of each group of two or more, best first; the largest
            group first.
        similarity: two samples are near-copies if the cosine of their codes is above this.
    """

    n: int
    groups: list[NDArray[np.int64]]
    similarity: float

    @property
    def in_groups(self) -> int:
        """Samples that have a near-copy."""
        return sum(len(group) for group in self.groups)

    @property
    def distinct(self) -> int:
        """Samples that would remain if one of each group stayed."""
        return self.n - self.in_groups + len(self.groups)


def find_near_copies(codes: NDArray[np.number], similarity: float = MAX_SIMILARITY) -> NearCopies:
    """Connected groups of samples whose codes have a cosine above `similarity`.

    Two samples are in one group if a chain of near-copies leads from one to the other. All pairs
    are compared, a block at a time: n x n x d multiplications, and memory of 512 x n cosines.

    Args:
        codes: [n, d] of any length, best sample first, as `SampleCodes` gives them.
        similarity: as `max_similarity` of `selection.select(..., "diverse")`.

    Raises:
        RankingError: codes that are not finite, or more than `MOST`.
    """
    if len(codes) > MOST:
        raise RankingError(
            f"{len(codes)} samples to compare with each other; give the {MOST} best at most"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        unit = unit_rows(codes)
    if not np.isfinite(unit).all():
        raise RankingError("codes are not finite, so that they cannot be compared")
    n = len(unit)
    group: NDArray[np.int64] = np.arange(n)
    for start in range(0, n, _BLOCK):
        # Rounding may carry the cosine of equal codes beyond 1.
        cosines = np.minimum(unit[start : start + _BLOCK] @ unit[start:].T, 1)
        rows, columns = np.nonzero(cosines > similarity)
        # Between groups found so far, so that many equal samples do not make many pairs.
        pairs = np.unique(np.stack([group[start + rows], group[start + columns]]), axis=1)
        graph = coo_array((np.ones(pairs.shape[1], dtype=bool), (pairs[0], pairs[1])), (n, n))
        group = connected_components(graph, directed=False)[1].astype(np.int64)[group]
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if n else []
    several = [some for some in members if len(some) > 1]
    return NearCopies(n, sorted(several, key=lambda some: (-len(some), some[0])), similarity)


def near_copies_section(
    codes: Callable[[IdArray], NDArray[np.float32]],
    ranking: Ranking,
    rows: Mapping[str, TextRow],
    k: int,
) -> Section:
    """Which of the k best are near-copies of each other, and which repeat a text.

    Args:
        codes: sample ids -> unit codes [n, d]; may raise `StoreError`.
        ranking: of the pool.
        rows: id as text -> the sample's row.
        k: how many would be chosen.
    """
    size = min(k, MOST)
    title = "Near-copies among the best"
    ids = ranking.sample_ids[ranking.order[:size]]
    try:
        found = find_near_copies(codes(ids))
    except StoreError as error:
        return Section(title, [Text(f"The samples cannot be compared: {error}")])
    limited = f" (the first {size:,} of them were compared)" if size < k else ""
    repeats = _repeats([rows.get(str(name), {}) for name in ids.tolist()])
    if not found.groups:
        return Section(
            title,
            [
                Text(
                    f"None: no two of the top {k:,}{limited} have codes with a cosine above "
                    f"{found.similarity:g}.{repeats}",
                    terms=["near-copies"],
                )
            ],
        )
    shown = found.groups[:_GROUPS]
    more = len(found.groups) - len(shown)
    rest = f" The {len(shown)} largest of {len(found.groups):,} groups are shown." if more else ""
    return Section(
        title,
        [
            Text(
                f"{found.in_groups:,} of the top {k:,}{limited} have a near-copy among them: a "
                "model learns nearly the same from both. With one of each group left, "
                f"{found.distinct:,} distinct samples remain. To fill their places with new "
                f"lessons, choose with select.strategy=diverse.{repeats}",
                terms=["near-copies"],
            ),
            _table(shown, ranking, rows),
            Text(
                f"Near-copies: cosine of the samples' codes above {found.similarity:g}; samples "
                f"that are linked by a chain of them are one group.{rest} Of each group the best "
                f"{_MEMBERS} are listed, at most.",
                terms=["near-copies"],
            ),
        ],
    )


def _table(
    groups: Sequence[NDArray[np.int64]], ranking: Ranking, rows: Mapping[str, TextRow]
) -> Table:
    """The best of each group; groups are places among the best."""
    lines = []
    for number, group in enumerate(groups, start=1):
        for place in group[:_MEMBERS].tolist():
            name = str(ranking.sample_ids[ranking.order[place]])
            row = rows.get(name, {})
            score = float(ranking.scores[ranking.order[place]])
            line = [f"{number} ({len(group):,} samples)", place + 1, score, name]
            lines.append([*line, row.get("prompt"), row.get("response")])
    return Table(["copies", "rank", "score", "sample", "prompt", "response"], lines, limit=120)


def _repeats(rows: list[TextRow]) -> str:
    """How many repeat another's text, which their codes need not show."""
    texts = [(row["prompt"], row["response"]) for row in rows if "prompt" in row]
    if not (again := len(texts) - len(set(texts))):
        return ""
    return (
        f" {again:,} of them repeat the text of a better one, word for word; such copies can have "
        "unlike codes where the model moved far between the steps that saw them."
    )
