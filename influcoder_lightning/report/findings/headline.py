"""What a comparison says in one sentence and a few figures, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from influcoder_lightning.report.findings.comparison import Arm, Comparison, t_interval
from influcoder_lightning.report.press.blocks import Number, Numbers, Text

# Arms in words; others are called by their name.
_WORDS = {
    "top_k": "the {k} best samples",
    "loop": "the loop's {k} samples",
    "random_k": "{k} random ones",
    "bottom_k": "the {k} worst",
    "full": "all samples",
}


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


def difference(comparison: Comparison, arm: str, control: str) -> Difference | None:
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
    apart = a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])
    mean = float(np.mean(values))
    return Difference(mean, None if ends is None else (ends[0], ends[1]), apart, len(values))


def headline_of(
    comparison: Comparison, arm: str = "top_k", control: str = "random_k"
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
    k = int(comparison["k"])
    return [
        Text(verdict(found, arm, control, k), lead=True, terms=["held-out loss", "nats"]),
        *(Text(line, terms=["held-out loss", "base"]) for line in cautions(comparison, arm)),
        Text(certainty(found)),
        Numbers(items),
    ]


def cautions(comparison: Comparison, arm: str) -> list[str]:
    """What else the reader has to know: that no training, or another arm, did better.

    Args:
        comparison: as `summarise_arms` returns it.
        arm: which arm.
    """
    means = {name: found["mean"] for name, found in comparison["arms"].items()}
    base, ours, lines = means.pop("base", None), means.pop(arm), []
    if base is not None and base <= ours:
        lines.append(
            "Training on these samples did not help: before it (base) the held-out loss was "
            f"{base:.3f}, after it {ours:.3f}."
        )
    if better := sorted((mean, name) for name, mean in means.items() if mean < ours):
        named = ", ".join(f"{name} {mean:.3f}" for mean, name in better)
        lines.append(f"A lower held-out loss than {arm}'s {ours:.3f} had: {named}.")
    return lines


def verdict(found: Difference, arm: str, control: str, k: int) -> str:
    """Whether the arm beats its control, and by how much, in plain words.

    Example:
        >>> verdict(Difference(-0.5, (-0.7, -0.3), True, 3), "top_k", "random_k", 80)
        'The 80 best samples beat 80 random ones: held-out loss is lower by 0.50 nats [0.30, 0.70].'
    """
    ours, theirs = (_WORDS.get(name, name).format(k=f"{k:,}") for name in (arm, control))
    digits = _digits(found.mean)
    size = f"{abs(found.mean):.{digits}f} nats"
    way = "lower" if found.mean < 0 else "higher"
    if found.mean == 0:
        return (
            f"{_sentence(ours)} and {theirs} do equally well: the mean held-out loss is the same."
        )
    if found.ci95 is None:
        return (
            f"In a single run, {ours} gave a held-out loss that is {way} by {size} than that of "
            f"{theirs}."
        )
    if not found.clear:
        return (
            f"Not shown that {ours} beat {theirs}: held-out loss is {way} by {size}, but "
            "the difference may well be chance."
        )
    low, high = sorted(abs(end) for end in found.ci95)
    does = "beat" if found.mean < 0 else "do worse than"
    ends = f"[{low:.{digits}f}, {high:.{digits}f}]"
    return f"{_sentence(ours)} {does} {theirs}: held-out loss is {way} by {size} {ends}."


def certainty(found: Difference) -> str:
    """What the verdict rests on, and what would settle what it leaves open."""
    if found.ci95 is None:
        return "One seed says nothing about chance: give three or more (seeds=[0,1,2])."
    low, high = (_signed(end, _digits(found.mean)) for end in found.ci95)
    paired = f"95 % interval of the difference, seed by seed, over {found.seeds} seeds"
    own = "lie apart" if found.apart else "overlap"
    if not found.clear:
        return f"{paired}: {low} to {high} nats, zero included. The arms' own intervals {own}."
    if found.apart:
        return f"In brackets the {paired}. The arms' own intervals lie apart as well."
    return (
        f"In brackets the {paired}. The arms' own intervals overlap, though: more seeds would "
        "make this surer."
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _interval(found: Difference) -> str:
    if found.ci95 is None:
        return "one seed: no interval"
    digits = _digits(found.mean)
    ends = " to ".join(_signed(end, digits) for end in found.ci95)
    return f"95 % interval {ends}"


def _own(arm: Arm) -> str:
    ends = arm["ci95"]
    return "" if ends is None else f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}"


def _signed(value: float, digits: int | None = None) -> str:
    """With a minus sign that is as wide as a plus."""
    return f"{value:+.{_digits(value) if digits is None else digits}f}".replace("-", "\u2212")


def _digits(value: float) -> int:
    """Enough to show two digits of a small difference; two decimals for a large one."""
    if value == 0 or abs(value) >= 0.1:
        return 2
    return min(6, 1 - math.floor(math.log10(abs(value))))
