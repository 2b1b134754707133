"""What a run cost in time, over all its processes."""

from __future__ import annotations

from time import perf_counter


def run_cost(clocks: list[dict[str, float] | None], closing: float) -> dict[str, float] | None:
    """What the store keeps of the run's time; None where it is not known of all processes.

    Args:
        clocks: of each process, when its training ended.
        closing: time at which the end of the run began, on this process's clock.
    """
    known = [clock for clock in clocks if clock is not None]
    if len(known) < len(clocks):
        return None
    sums = {name: sum(clock[name] for clock in known) for name in known[0]}
    return {**sums, "closing_seconds": perf_counter() - closing, "processes": len(known)}
