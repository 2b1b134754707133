"""What a comparison says in one sentence and a few figures, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from influcoder_lightning.report.blocks import Number, Numbers, Text
from influcoder_lightning.report.comparison import t_interval


@dataclass(frozen=True)
class Difference:
    """Held-out loss of one arm minus that of another, seed by seed, in nats per response token.

    Attributes:
        mean: over the seeds; below zero: the first arm is better.
        ci95: Student's t interval of the mean; None for a single seed.
        apart: whether the two arms' own intervals have nothing in common.
        seeds: how many.
    """

    mean: float
    ci95: tuple[float, float] | None
    apart: bool
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves no doubt about the sign."""
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]


def difference(comparison: Mapping[str, Any], arm: str, control: str) -> Difference | None:
    """The paired difference of two arms; None where an arm is missing.

    Args:
        comparison: as `summarise_arms` returns it; the arms of a seed share initial weights.
        arm: name.
        control: name of the arm that is subtracted.
    """
    arms = comparison["arms"]
    if arm not in arms or control not in arms:
        return None
    first, second = arms[arm], arms[control]
    values = np.subtract(first["eval_loss"], second["eval_loss"]).tolist()
    ends = t_interval(values)
    a, b = first["ci95"], second["ci95"]
    apart = bool(a and b) and (a[1] < b[0] or b[1] < a[0])
    mean = float(np.mean(values))
    return Difference(mean, None if ends is None else (ends[0], ends[1]), apart, len(values))


def headline_of(
    comparison: Mapping[str, Any], arm: str = "top_k", control: str = "random_k"
) -> list[Text | Numbers]:
    """One sentence to read first, and its figures; nothing where an arm is missing.

    Args:
        comparison: as `summarise_arms` returns it.
        arm: what is claimed to be good.
        control: what it has to beat.
    """
    found = difference(comparison, arm, control)
    if found is None:
        return []
    arms = comparison["arms"]
    items = [
        Number(f"{arm} against {control}", f"{_signed(found.mean)} nats", _interval(found)),
        *(
            Number(f"held-out loss, {name}", f"{arms[name]['mean']:.3f}", note)
            for name, note in ((arm, _own(arms[arm])), (control, _own(arms[control])))
        ),
        Number("seeds", str(found.seeds), "models per arm"),
    ]
    sentence = verdict(found, arm, control, int(comparison["k"]))
    return [
        Text(sentence, lead=True, terms=["held-out loss", "nats", arm, control]),
        Numbers(items),
    ]


def verdict(found: Difference, arm: str, control: str, k: int) -> str:
    """Whether the arm beats its control, by how much and how sure that is, in plain words."""
    size = f"{abs(found.mean):.{_digits(found.mean)}f} nats"
    way = "below" if found.mean < 0 else "above"
    where = f"The held-out loss after training on {k:,} samples is {size} {way} {control}'s"
    if found.ci95 is None:
        return f"{where} with {arm}, in a single run: one seed says nothing about chance."
    low, high = found.ci95
    ends = f"[{low:.{_digits(found.mean)}f}, {high:.{_digits(found.mean)}f}]"
    paired = f"95 % interval of the difference {ends}, {found.seeds} seeds"
    if found.mean == 0:
        return f"{arm} and {control} are level: their mean held-out losses are the same ({paired})."
    if not found.clear:
        return (
            f"Not shown that {arm} beats {control}: its mean held-out loss is {size} {way}, but "
            f"the difference could be zero ({paired})."
        )
    doubt = (
        "the arms' own intervals lie apart"
        if found.apart
        else "but the arms' own intervals overlap: more seeds would settle it"
    )
    if found.mean > 0:
        return (
            f"{arm} does worse than {control}: training on its samples raises the held-out loss "
            f"by {size} ({paired}; {doubt})."
        )
    return (
        f"{arm} beats {control}: training on its {k:,} samples lowers the held-out loss by "
        f"{size} ({paired}; {doubt})."
    )


def _interval(found: Difference) -> str:
    if found.ci95 is None:
        return "one seed: no interval"
    digits = _digits(found.mean)
    ends = " to ".join(_signed(end, digits) for end in found.ci95)
    return f"95 % interval {ends}"


def _own(arm: Mapping[str, Any]) -> str:
    ends: Sequence[float] | None = arm["ci95"]
    return "" if ends is None else f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}"


def _signed(value: float, digits: int | None = None) -> str:
    """With a minus sign that is as wide as a plus."""
    return f"{value:+.{_digits(value) if digits is None else digits}f}".replace("-", "\u2212")


def _digits(value: float) -> int:
    """Enough to show two digits of a small difference; two decimals for a large one."""
    if value == 0 or abs(value) >= 0.1:
        return 2
    return min(6, 1 - math.floor(math.log10(abs(value))))
