"""How figures look, and how they reach the disk."""

from __future__ import annotations

import os
import re
import unicodedata

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from influcoder_lightning.files import durable_path

INK = "#1f2933"
MUTED = "#616e7c"
GRID = "#e4e7eb"
ACCENT = "#0b63b0"
# Okabe and Ito's colours (readable with colour-blind eyes), ordered by contrast.
PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800"]
OTHER = "#b6bec7"

HOVER = "hover: "  # how `hover` marks what it says in an SVG


def tidy(axes: Axes, grid: str = "y") -> None:
    """Take away what carries no information."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]


def legend_beside(axes: Axes) -> None:
    """A legend right of stacked bars: the highest part first, as the eye meets them."""
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        names[::-1],
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        fontsize=8,
        handlelength=1.1,
        labelcolor=INK,
    )


def label(text: object, width: int = 28) -> str:
    """Text from users for a figure: one line, cut in the middle, never read as TeX."""
    flat = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text))
    flat = re.sub(r" +", " ", flat).strip()
    if len(flat) > width:
        head = (width - 1) * 2 // 3
        flat = f"{flat[:head]}…{flat[-(width - 1 - head) :]}"
    # matplotlib leaves names that start with an underscore out of legends.
    return (" " if flat.startswith("_") else "") + flat.replace("$", r"\$")


def hover(artist: Artist, text: object) -> None:
    """What a page's chart says of this artist under the pointer; images leave it out."""
    artist.set_gid(f"{HOVER}{label(text, 120)}")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as a whole; the format follows the suffix."""
    with durable_path(path) as part:
        figure.savefig(part, dpi=150, facecolor="white")
