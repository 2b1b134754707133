"""`tfidf`: does the sample share rare words with the queries?

    score(z) = mean over queries q: cos(tfidf(z), tfidf(q))

over prompt, newline, response; document frequencies are those of pool and queries together. A
baseline without any model: Salton and Buckley 1988, "Term-weighting approaches in automatic text
retrieval".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.text_scores import joined_text, rank_text


@register(
    "tfidf",
    needs={"text", "queries"},
    says="Word overlap with the queries, weighted; a baseline.",
)
def tfidf(request: Request, *, block_rows: int = 8192) -> Ranking:
    """Mean TF-IDF cosine with the queries' text; `block_rows` bounds the memory.

    Raises:
        RankingError: no text of the pool or of the queries, or no word in any of it.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    ids, rows = request.data_rows()
    query_ids, queries = request.query_rows()
    texts = [joined_text(row) for row in rows]
    asked = [joined_text(row) for row in queries]
    try:
        vectorizer = TfidfVectorizer(dtype=np.float32).fit([*texts, *asked])
    except ValueError as error:
        raise RankingError(
            f"method 'tfidf' found no word of two letters in {len(texts)} samples and "
            f"{len(asked)} queries ({error}); use 'encoder' or 'cosine'"
        ) from error
    features = vectorizer.transform(asked).T.tocsr()

    def score_block(block: slice) -> NDArray[np.float32]:
        cosines = vectorizer.transform(texts[block]) @ features
        return np.asarray(cosines.toarray(), dtype=np.float32)

    return rank_text(ids, query_ids, score_block, block_rows=block_rows)
