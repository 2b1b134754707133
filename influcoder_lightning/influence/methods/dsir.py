"""`dsir`: is the sample more like the queries than like the rest of the pool?

    score(z) = sum over buckets j: count_j(z) * log(p_j / q_j)

with the hashed unigrams and bigrams of prompt, newline, response; p and q are their shares in the
queries and in the pool, one count added to every bucket: the log importance weight of Xie,
Santurkar, Ma and Liang 2023, "Data Selection for Language Models via Importance Resampling", arXiv
2302.03169. They then resample (`select`, strategy random, takes no weights); as a ranking it is a
baseline without any model.
"""

from __future__ import annotations

import numpy as np

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.text_scores import joined_text


@register(
    "dsir",
    needs={"text", "queries"},
    says="Whether its words are more the queries' than the pool's; a baseline.",
)
def dsir(request: Request, *, n_buckets: int = 10_000, per_word: bool = False) -> Ranking:
    """Log importance weight of the samples' words towards the queries'.

    Args:
        request: with the text of pool and queries.
        n_buckets: of the hash; 10,000 as published.
        per_word: divide by the number of words, so that long samples are not ahead or behind.

    Raises:
        RankingError: no text of the pool or of the queries, or no word in one of them.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    ids, rows = request.data_rows()
    _, queries = request.query_rows()
    vectorizer = HashingVectorizer(
        n_features=n_buckets, ngram_range=(1, 2), alternate_sign=False, norm=None
    )
    counts = vectorizer.transform([joined_text(row) for row in rows])
    asked = vectorizer.transform([joined_text(row) for row in queries])
    if not (counts.nnz and asked.nnz):
        raise RankingError(
            f"method 'dsir' found no word of two letters in the {len(rows)} samples or in the "
            f"{len(queries)} queries; use 'encoder' or 'cosine'"
        )
    target, raw = (np.asarray(table.sum(axis=0)).ravel() + 1 for table in (asked, counts))
    scores = counts @ (np.log(target / target.sum()) - np.log(raw / raw.sum()))
    if per_word:
        scores = scores / np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    samples = SampleRows(ids)
    return Ranking(
        samples.sample_ids,
        samples.mean(scores),
        metadata={"n_rows": len(rows), "n_queries": len(queries)},
    )
