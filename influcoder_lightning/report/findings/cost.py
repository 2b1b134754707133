"""What a run cost: seconds by stage, the valuation's share of training, bytes on disk, memory."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from influcoder_lightning.report.press.blocks import Block, Chart, Number, Numbers, Section
from influcoder_lightning.report.press.style import ACCENT, INK, hover, label, tidy
from influcoder_lightning.report.press.units import duration, in_bytes

_LONGEST = 12  # stages that are drawn


@dataclass(frozen=True)
class Cost:
    """Figures of a valuation; None where a store of an earlier release, or a killed run, lacks it.

    Attributes:
        rows: in the store.
        seconds: of the training with the valuation in it, summed over processes.
        share: of that time, what the valuation took, from 0 to 1.
        closing: seconds at the end of the run: the text tower solved, all rows merged.
        processes: of the training.
        file_bytes: of `influence.h5`.
        encoder_bytes: of the towers beside it.
        folder_bytes: of the store's folder, everything in it.
    """

    rows: int
    seconds: float | None
    share: float | None
    closing: float | None
    processes: int | None
    file_bytes: int
    encoder_bytes: int
    folder_bytes: int

    @property
    def rows_per_second(self) -> float | None:
        """Rows captured in a second of the training, by all processes together."""
        if self.seconds is None or self.processes is None:
            return None
        return self.rows * self.processes / self.seconds

    @property
    def bytes_per_row(self) -> float | None:
        """Bytes of `influence.h5` for each row, queries and windows included."""
        return self.file_bytes / self.rows if self.rows else None


def find_cost(attributes: Mapping[str, object], n_rows: int, file: Path) -> Cost:
    """What the store and its folder say.

    Args:
        attributes: `InfluenceStore.attributes`; its `cost` is checked, as any file may be damaged.
        n_rows: rows in the store.
        file: `InfluenceStore.path`.
    """
    found = attributes.get("cost")
    kept = found if isinstance(found, Mapping) else {}
    seconds, valuation = (_positive(kept.get(f"{name}_seconds")) for name in ("run", "valuation"))
    processes = _positive(kept.get("processes"))
    return Cost(
        rows=n_rows,
        seconds=seconds,
        share=valuation / seconds if valuation is not None and seconds is not None else None,
        closing=_positive(kept.get("closing_seconds")),
        processes=None if processes is None else int(processes),
        file_bytes=file.stat().st_size,
        encoder_bytes=bytes_below(file.parent / "encoder"),
        folder_bytes=bytes_below(file.parent),
    )


def _positive(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed. 0 where there is none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            if not path.is_symlink():
                total += path.stat().st_size
    return total


def peak_memory() -> int | None:
    """The most memory [bytes] this process has had resident; None on systems that do not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def plot_stages(seconds: Mapping[str, float]) -> Figure:
    """Seconds of each stage of the command, as bars in the order in which they ended.

    Stages of less than a hundredth of the whole are one bar.
    """
    total = sum(seconds.values()) or 1.0
    longest = sorted(seconds, key=lambda name: -seconds[name])[: _LONGEST - 1]
    small = [name for name in seconds if name not in longest or seconds[name] < 0.01 * total]
    shown = dict(seconds)
    if len(small) > 1:
        shown = {name: value for name, value in seconds.items() if name not in small}
        shown[f"{len(small)} short ones"] = sum(seconds[name] for name in small)
    figure = Figure(figsize=(8, 0.7 + 0.32 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for row, (name, value) in enumerate(shown.items()):
        [bar] = axes.barh(row, value, height=0.66, color=ACCENT)
        hover(bar, f"{name}: {duration(value)}, {value / total:.0%} of the command")
        axes.annotate(
            duration(value),
            xy=(value, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    tidy(axes, grid="x")
    axes.set_yticks(range(len(shown)), [label(name, 34) for name in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * (max(shown.values(), default=0.0) or 1.0))
    axes.set_xlabel("seconds", color=INK, fontsize=9)
    return figure


def cost_section(
    attributes: Mapping[str, object], n_rows: int, path: Path, seconds: Mapping[str, float]
) -> Section:
    """What a valuation cost.

    Args:
        attributes: of the store.
        n_rows: of the store.
        path: of the store's file.
        seconds: of each stage of this command.
    """
    numbers = _numbers(find_cost(attributes, n_rows, path), attributes)
    blocks: list[Block] = [Numbers(numbers)]
    if seconds:
        blocks.append(
            Chart(
                plot_stages(seconds),
                f"Seconds of each stage of this command, {duration(sum(seconds.values()))} in all.",
                "charts/stages.png",
            )
        )
    return Section("What it cost", blocks)


def _numbers(cost: Cost, attributes: Mapping[str, object]) -> list[Number]:
    memory = peak_memory()
    config = attributes.get("config")
    frozen = isinstance(config, Mapping) and config.get("mode") == "frozen"
    several = cost.processes is not None and cost.processes > 1
    summed = f"summed over {cost.processes} processes" if several else ""
    return [
        Number(
            "step time share",
            "-" if cost.share is None else f"{cost.share:.1%}",
            "a frozen model: all of it" if frozen else "of the training's time",
        ),
        Number(
            "extraction" if frozen else "training with valuation",
            "-" if cost.seconds is None else duration(cost.seconds),
            summed,
        ),
        Number(
            "rows per second",
            "-" if cost.rows_per_second is None else f"{cost.rows_per_second:,.1f}",
        ),
        Number("end of the run", "-" if cost.closing is None else duration(cost.closing)),
        Number(
            "store on disk",
            in_bytes(cost.folder_bytes),
            f"of which towers {in_bytes(cost.encoder_bytes)}",
        ),
        Number(
            "bytes per row",
            "-" if cost.bytes_per_row is None else f"{cost.bytes_per_row:,.0f}",
            f"{cost.rows:,} rows",
        ),
        Number("peak memory", "-" if memory is None else in_bytes(memory)),
    ]
