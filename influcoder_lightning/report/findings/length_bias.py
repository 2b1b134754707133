"""Does the ranking follow the length of the samples? A score that does may be no more than that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from influcoder_lightning.ids import id_keys
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import StoreReader
from influcoder_lightning.report.press.blocks import Section, Text

PARTS = {"n_tokens": "response", "n_prompt_tokens": "prompt"}
STRONG = 0.5  # rank correlations from here on are said first


@dataclass(frozen=True)
class LengthBias:
    """One length of the samples beside their scores.

    Attributes:
        part: response or prompt.
        correlation: Spearman's, of length and score; None where all are equally long.
        top: median length of the top k, in tokens.
        everyone: of all ranked samples.
    """

    part: str
    correlation: float | None
    top: float
    everyone: float


def find_length_bias(ranking: Ranking, store: StoreReader, k: int) -> list[LengthBias]:
    """How each length of the samples goes with their scores; lengths that a store lacks are left
    out.

    Args:
        ranking: of the store's samples; those it does not rank, or gives no score, do not count.
        store: with the lengths.
        k: how many are taken.
    """
    samples = SampleRows(store.sample_ids)
    places = {key: place for place, key in enumerate(id_keys(samples.sample_ids))}
    ranked = ranking.finite()
    known = [(places[key], i) for i, key in enumerate(id_keys(ranked.sample_ids)) if key in places]
    if not known:
        return []
    at, of = (np.array(column) for column in zip(*known, strict=True))
    scores, best = ranked.scores[of], ranked.ranks[of] <= k
    found = []
    for column, part in PARTS.items():
        if column not in store.column_names():
            continue
        lengths = samples.mean(store.column(column))[at]
        if np.isfinite(lengths).all() and best.any():
            found.append(_beside(part, lengths, scores, best))
    return found


def _beside(
    part: str, lengths: NDArray[np.float64], scores: NDArray[np.float64], best: NDArray[np.bool_]
) -> LengthBias:
    flat = np.ptp(lengths) == 0 or np.ptp(scores) == 0
    correlation = None if flat else float(stats.spearmanr(lengths, scores).statistic)
    return LengthBias(part, correlation, float(np.median(lengths[best])), float(np.median(lengths)))


def length_sections(ranking: Ranking, store: StoreReader, k: int) -> list[Section]:
    """What a page says of it; nothing where no length is known."""
    found = find_length_bias(ranking, store, k)
    if not found:
        return []
    said = [
        Text(
            f"Tokens of the {bias.part}: median {bias.top:,.0f} in the top {k:,}, "
            f"{bias.everyone:,.0f} of all; rank correlation with the score "
            f"{'not defined' if bias.correlation is None else f'{bias.correlation:+.2f}'}."
        )
        for bias in found
    ]
    return [Section("Does the ranking follow length?", [Text(_verdict(found)), *said])]


def _verdict(found: list[LengthBias]) -> str:
    strong = [b for b in found if b.correlation is not None and abs(b.correlation) >= STRONG]
    if not strong:
        return "No: neither short nor long samples are ahead by their length."
    said = " and ".join(
        f"samples with a {'longer' if (b.correlation or 0) > 0 else 'shorter'} {b.part} are ahead"
        for b in strong
    )
    return (
        f"Yes: {said}. Length alone might choose much the same: hold this ranking against "
        "rank.method=length by recipe=compare before you rely on it."
    )
