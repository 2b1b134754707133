"""Rankings and comparisons in the Trainer's loggers, as far as each can hold them.

Every logger takes the figures. TensorBoard also gets the tables (as text) and the charts (as
images), Weights & Biases gets both as its own kinds. Any other logger that has their methods
(`log_table` and `log_image`, or an experiment with `add_text` and `add_image`) is treated alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.ids import SampleId
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.report.findings.comparison import Comparison, comparison_figure
from influcoder_lightning.report.findings.distribution import describe_scores, plot_distribution
from influcoder_lightning.report.findings.tables import arms_table, sample_table
from influcoder_lightning.report.press.blocks import Table
from influcoder_lightning.report.press.markdown import render
from influcoder_lightning.selection.selection import Groups

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)
_PREFIX = "influcoder"
_TEXT = 2000  # characters of a prompt or response


@rank_zero_only
def log_ranking(
    loggers: Iterable[Logger],
    ranking: Ranking,
    rows: Sequence[TextRow] = (),
    row_ids: Iterable[object] = (),
    *,
    k: int | None = None,
    groups: Groups | None = None,
    shown: int = 20,
    step: int | None = None,
) -> None:
    """Send a ranking to loggers: quantiles of its scores, its best and worst samples, a histogram.

    Metrics: `influcoder/ranking/n`, `.../median`, `.../best`, `.../worst` and, with `k`,
    `.../threshold`, the score of the last of the top k.

    Args:
        loggers: for instance `trainer.loggers`, also after `fit`.
        ranking: of the pool.
        rows: the pool, for the texts in the tables; empty: tables of ids and scores.
        row_ids: id of each row.
        k: size of the top k.
        groups: id -> group or one group per sample, to colour the histogram.
        shown: samples in each table, at most.
        step: to log at, for instance `trainer.global_step`.

    Raises:
        RankingError: rows without ids, or that are not those of the ranking.

    Example::

        trainer.fit(module, loader)
        ranking = InfluenceStore("run/influence").rank("cosine")
        log_ranking(trainer.loggers, ranking, step=trainer.global_step)
    """
    found = describe_scores(ranking, k)
    metrics = {"n": float(ranking.n_scored)}
    tables: dict[str, Table] = {}
    images: dict[str, NDArray[np.uint8]] = {}
    if found is not None:
        scores = ranking.scores[np.isfinite(ranking.scores)]
        metrics["median"] = float(np.median(scores))
        metrics |= {"best": float(scores.max()), "worst": float(scores.min())}
        if found.threshold is not None:
            metrics["threshold"] = found.threshold
        images["scores"] = _pixels(plot_distribution(ranking, found, groups)[0])
        size = min(shown, ranking.n_scored)
        ids = list(row_ids)
        for name, chosen in (("best", ranking.top_k(size)), ("worst", ranking.bottom_k(size))):
            tables[f"{name}_samples"] = (
                sample_table(ranking, rows, ids, chosen, limit=_TEXT)
                if len(rows) or ids
                else _plain_table(ranking, chosen)
            )
    _send(loggers, "ranking", metrics, tables, images, step, "ranking.save(path)")


@rank_zero_only
def log_comparison(
    loggers: Iterable[Logger], comparison: Comparison, *, step: int | None = None
) -> None:
    """Send a comparison of arms to loggers: each arm's mean held-out loss, a table, a chart.

    Metrics: `influcoder/comparison/<arm>`, in nats per response token.

    Args:
        loggers: for instance `trainer.loggers`.
        comparison: as `summarise_arms` returns it, or the content of `comparison.json`.
        step: to log at.
    """
    metrics = {name: float(arm["mean"]) for name, arm in comparison["arms"].items()}
    image = _pixels(comparison_figure(comparison))
    tables = {"arms": arms_table(comparison)}
    _send(loggers, "comparison", metrics, tables, {"arms": image}, step, "comparison.json")


def _send(
    loggers: Iterable[Logger],
    what: str,
    metrics: Mapping[str, float],
    tables: Mapping[str, Table],
    images: Mapping[str, NDArray[np.uint8]],
    step: int | None,
    file: str,
) -> None:
    for logger in loggers:
        name = f"{_PREFIX}/{what}"
        experiment = getattr(logger, "experiment", None)
        logger.log_metrics({f"{name}/{key}": value for key, value in metrics.items()}, step)
        if _has(logger, "log_table", "log_image"):
            _send_tables(logger, name, tables, images, step)
        elif experiment is not None and _has(experiment, "add_text", "add_image"):
            _write_events(experiment, name, tables, images, step)
        else:
            log.info(
                "%s takes figures only: it has the %s's metrics, but not its tables and charts. "
                "They are in the report; %s keeps all of it",
                type(logger).__name__,
                what,
                file,
            )
        logger.save()


def _has(target: object, *names: str) -> bool:
    return all(callable(getattr(target, name, None)) for name in names)


def _send_tables(
    logger: Any,
    name: str,
    tables: Mapping[str, Table],
    images: Mapping[str, NDArray[np.uint8]],
    step: int | None,
) -> None:
    for key, table in tables.items():
        # One kind of value in a column, or none at all: what such tables demand.
        data = [list(row) for row in table.rows]
        logger.log_table(f"{name}/{key}", columns=list(table.columns), data=data, step=step)
    for key, image in images.items():
        logger.log_image(f"{name}/{key}_chart", images=[image], step=step)


def _write_events(
    writer: Any,
    name: str,
    tables: Mapping[str, Table],
    images: Mapping[str, NDArray[np.uint8]],
    step: int | None,
) -> None:
    for key, table in tables.items():
        writer.add_text(f"{name}/{key}", render(table, Path()), step)
    for key, image in images.items():
        writer.add_image(f"{name}/{key}", image, step, dataformats="HWC")
    writer.flush()


def _plain_table(ranking: Ranking, ids: Sequence[SampleId]) -> Table:
    places = {name: place for place, name in enumerate(ranking.sample_ids.tolist())}
    rows = [
        [int(ranking.ranks[places[name]]), float(ranking.scores[places[name]]), str(name)]
        for name in ids
    ]
    return Table(["rank", "score", "sample"], rows)


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure on white, [height, width, 3]."""
    figure.set_facecolor("white")
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
