"""`bm25`: does the sample answer the queries, as a search engine would judge?

    score(z) = mean over queries q: sum over words of q: idf f (k1 + 1) / (f + k1 (1 - b + b L))

with f the count of the word in the sample, L the sample's length over the mean length, and
idf = ln(1 + (N - n + 0.5) / (n + 0.5)). Words as for `tfidf`. Robertson and Zaragoza 2009, "The
probabilistic relevance framework: BM25 and beyond". A baseline that many gradient methods lose to.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.text_scores import joined_text, rank_text


@register(
    "bm25",
    needs={"text", "queries"},
    says="Word overlap with the queries as search engines weight it; a baseline.",
)
def bm25(request: Request, *, k1: float = 1.5, b: float = 0.75, block_rows: int = 8192) -> Ranking:
    """Mean BM25 score of the samples for the queries' text; `block_rows` bounds the memory.

    Raises:
        RankingError: no text of the pool or of the queries, or no word in any of it.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    ids, rows = request.data_rows()
    query_ids, queries = request.query_rows()
    try:
        vectorizer = CountVectorizer(dtype=np.float32)
        counts = sp.csr_matrix(vectorizer.fit_transform([joined_text(row) for row in rows]))
    except ValueError as error:
        raise RankingError(
            f"method 'bm25' found no word of two letters in {len(rows)} samples ({error}); "
            "use 'encoder' or 'cosine'"
        ) from error
    asked = vectorizer.transform([joined_text(row) for row in queries])
    lengths = np.asarray(counts.sum(axis=1), dtype=np.float32).ravel()
    lengths = lengths / max(float(lengths.mean()), 1e-12)
    documents = np.asarray((counts > 0).sum(axis=0)).ravel()
    idf = np.log1p((len(rows) - documents + 0.5) / (documents + 0.5)).astype(np.float32)
    saturated = counts.copy()
    damping = np.repeat(k1 * (1 - b + b * lengths), np.diff(counts.indptr))
    saturated.data = counts.data * (k1 + 1) / (counts.data + damping)
    weighted = (saturated @ sp.diags_array(idf)).tocsr()

    def score_block(block: slice) -> NDArray[np.float32]:
        return np.asarray((weighted[block] @ asked.T).toarray(), dtype=np.float32)

    return rank_text(ids, query_ids, score_block, block_rows=block_rows)
