"""A few queries that stand for many: one near each k-means centre of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.influence.text_scores import joined_text

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def choose_queries(
    rows: Sequence[TextRow],
    n: int,
    *,
    seed: int = 0,
    text_encoder: str | SentenceTransformer | None = None,
) -> list[int]:
    """Positions of ``n`` different rows, in order.

    Args:
        rows: with prompt and response.
        n: how many.
        seed: of k-means.
        text_encoder: a sentence-transformers model (name, folder or object) for the embeddings;
            None: TF-IDF reduced to at most 64 dimensions.

    Raises:
        ConfigError: ``n`` does not fit the number of rows.
    """
    from sklearn.cluster import KMeans

    if not 1 <= n <= len(rows):
        raise ConfigError(f"{n} queries cannot be chosen from {len(rows)} rows.")
    if n == len(rows):
        return list(range(n))
    vectors = _embed([joined_text(row) for row in rows], seed, text_encoder)
    means = KMeans(n, random_state=seed, n_init=4).fit(vectors)
    distances = means.transform(vectors)
    chosen: list[int] = []
    for centre in range(n):  # equal rows share a centre's place: take the nearest that is left
        ranked = np.argsort(distances[:, centre], kind="stable").tolist()
        chosen.append(next(i for i in ranked if i not in chosen))
    return sorted(chosen)


def _embed(
    texts: list[str], seed: int, text_encoder: str | SentenceTransformer | None
) -> np.ndarray:
    if text_encoder is not None:
        from influcoder_lightning.encoder.sentence_tower import load_sentence_encoder

        encoder = load_sentence_encoder(text_encoder)
        return np.asarray(encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False))
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+").fit_transform(texts)
    width = min(64, words.shape[1] - 1, len(texts) - 1)
    if width < 2:
        return np.asarray(words.toarray())
    return np.asarray(TruncatedSVD(width, random_state=seed).fit_transform(words))
