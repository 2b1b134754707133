"""A row as tokens, and what of it is cut where it is too long."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from influcoder_lightning.errors import ConfigError, DataError

Span = tuple[int, int]
_EXAMPLES = 3
TOO_LONG = ("cut_prompt", "cut_response", "drop", "error")


@dataclass(frozen=True)
class Encoded:
    """Tokens of one row.

    Attributes:
        ids: of all tokens.
        trained: from, to: the tokens that have a loss.
        prompt: from, to: the tokens that may be cut, the first of them first.
        spells_special: the row's text spells a special token, which was kept as text.
    """

    ids: list[int]
    trained: list[Span]
    prompt: Span
    spells_special: bool = False

    def n_trained(self) -> int:
        """Tokens with a loss; the first of a row has nothing before it that could predict it."""
        return sum(stop - max(start, 1) for start, stop in self.trained if stop > 1)

    def without(self, start: int, stop: int) -> Encoded:
        """The row without some of its tokens."""

        def moved(at: int) -> int:
            return at - max(0, min(at, stop) - start)

        spans = [(moved(a), moved(b)) for a, b in self.trained]
        return replace(
            self,
            ids=self.ids[:start] + self.ids[stop:],
            trained=[span for span in spans if span[0] < span[1]],
            prompt=(moved(self.prompt[0]), moved(self.prompt[1])),
        )


class Cutter:
    """Makes rows fit, and counts what it took.

    Args:
        max_length: tokens of a whole row, at most.
        too_long: what is done with a longer one. ``cut_prompt``: its prompt loses its head until it
            fits, or has half of the room; then the row loses its end. ``cut_response``: its end.
            ``drop``: it is left out. ``error``.

    Raises:
        ConfigError: another word.
    """

    def __init__(self, max_length: int, too_long: str = "cut_prompt") -> None:
        if too_long not in TOO_LONG:
            raise ConfigError(f"data.too_long={too_long}: choose one of {', '.join(TOO_LONG)}.")
        self.max_length, self.too_long = max_length, too_long
        self.counts: Counter[str] = Counter()
        self._examples: list[str] = []

    def fit(self, row: Encoded, name: object) -> Encoded:
        """The row, not longer than ``max_length``; a dropped one has no tokens.

        ``name`` says which it is where that is an error, which `check` raises after all rows.
        """
        if len(row.ids) <= self.max_length:
            return row
        if self.too_long == "error":
            self.counts["errors"] += 1
            if len(self._examples) < _EXAMPLES:
                self._examples.append(f"{name!s:.40} ({len(row.ids):,})")
            return row
        if self.too_long == "drop":
            self.counts["dropped"] += 1
            return Encoded([], [], (0, 0), row.spells_special)
        start, stop = row.prompt
        excess = len(row.ids) - self.max_length
        first = row.trained[0][0] if row.trained else len(row.ids)
        # A prompt keeps half of the room where the response would take more than the other half.
        lost = min(excess, stop - start, max(0, first - self.max_length // 2))
        if self.too_long == "cut_prompt" and lost > 0:
            self.counts["prompts"] += 1
            row, excess = row.without(start, start + lost), excess - lost
        if excess:
            self.counts["responses"] += 1
            row = row.without(self.max_length, len(row.ids))
        return row

    def check(self, n_rows: int) -> None:
        """Raise ``DataError`` if a row was too long and that is an error; names the first ones."""
        if not self.counts["errors"]:
            return
        raise DataError(
            f"{self.counts['errors']:,} of {n_rows:,} rows have more than train.max_length="
            f"{self.max_length:,} tokens: {', '.join(self._examples)}. Raise it, or say what to do "
            "with them: data.too_long=cut_prompt, cut_response or drop."
        )
