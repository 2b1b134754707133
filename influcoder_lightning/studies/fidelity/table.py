"""The parts of a study (one per seed and state) put together: one line per method and state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from influcoder_lightning.studies.fidelity.method_rows import Line
from influcoder_lightning.studies.fidelity.rank_correlation import aggregated_rho, per_query_rho

Part = Mapping[str, Any]
"""What one seed and state found, as JSON has it."""

MEASURED = ("per_query", "aggregated", "ms_per_sample", "bytes_per_sample", "n_fit")
KINDS = ("feature", "code", "forward", "text", "baseline")


class Merged(TypedDict):
    """What `merge_parts` finds."""

    rows: list[Line]
    curve: list[Line]
    cascade: list[Line]
    confidence: list[Line]
    states_agree: dict[str, float] | None


def merge_parts(parts: Sequence[Part]) -> Merged:
    """Means and spreads over seeds.

    Args:
        parts: results with ``seed``, ``state``, ``rows``, ``curve``, ``cascade``, ``confidence``
            and ``exact``.

    Returns:
        ``rows``, ``curve``, ``cascade``, ``confidence`` and ``states_agree``; ``spread`` is the
        sample standard deviation over seeds of either rho (null for a single seed).
    """
    rows = _grouped((part["state"], row) for part in parts for row in part["rows"])
    rows.sort(key=lambda row: (row["adapter"] != "warm", KINDS.index(row["kind"])))
    return {
        "rows": rows,
        "curve": _grouped((part["state"], line) for part in parts for line in part["curve"]),
        "cascade": _cascade(parts),
        "confidence": _confidence(parts),
        "states_agree": _states_agree(parts),
    }


def _grouped(lines: Iterable[tuple[str, Line]]) -> list[Line]:
    groups: dict[tuple[str, str, int | None], list[Line]] = {}
    for state, line in lines:
        groups.setdefault((state, line["name"], line.get("n_pool")), []).append(line)
    merged = []
    for (state, name, n_pool), group in groups.items():
        first = group[0]
        row: Line = {"name": name, "adapter": state}
        if "kind" in first:
            row["kind"] = first["kind"]
        if n_pool is not None:
            row["n_pool"] = n_pool
        row |= {key: _mean(line[key] for line in group) for key in MEASURED if key in first}
        row["spread"] = {key: _spread([line[key] for line in group]) for key in MEASURED[:2]}
        row["seeds"] = len(group)
        merged.append(row)
    return merged


def _cascade(parts: Sequence[Part]) -> list[Line]:
    lines = []
    for state in dict.fromkeys(part["state"] for part in parts):
        cascades = [part["cascade"] for part in parts if part["state"] == state]
        for group in zip(*cascades, strict=True):
            line = {key: group[0][key] for key in ("m", "share", "k")} | {"adapter": state}
            for choice in ("cascade", "random"):
                line[choice] = {
                    key: _mean(one[choice][key] for one in group) for key in group[0][choice]
                }
            lines.append(line)
    return lines


def _confidence(parts: Sequence[Part]) -> list[Line]:
    lines = []
    for state in dict.fromkeys(part["state"] for part in parts):
        halves = [part["confidence"] for part in parts if part["state"] == state]
        for half in ("more", "less"):
            numbers = {key: _mean(one[half][key] for one in halves) for key in halves[0][half]}
            lines.append({"adapter": state, "half": half, **numbers})
    return lines


def _states_agree(parts: Sequence[Part]) -> dict[str, float] | None:
    """Rank agreement of the two states' exact scores on the same samples."""
    exact = {(part["state"], part["seed"]): np.array(part["exact"]) for part in parts}
    pairs = [
        (exact["fresh", seed], exact["warm", seed])
        for state, seed in exact
        if state == "fresh" and ("warm", seed) in exact
    ]
    if not pairs:
        return None
    return {
        "per_query": _mean(per_query_rho(a, b) for a, b in pairs),
        "aggregated": _mean(aggregated_rho(a, b) for a, b in pairs),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
