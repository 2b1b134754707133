"""BM25 and hidden-state similarity against formulas written out."""

import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import tiny_peft

from influcoder_lightning import rank, tokenize_rows
from influcoder_lightning.errors import RankingError

ROWS = [
    {"id": "a", "prompt": "what is question one", "response": "answer one one"},
    {"id": "b", "prompt": "the weather", "response": "is fine"},
    {"id": "c", "prompt": "what is question two", "response": "answer"},
]
QUERIES = [
    {"prompt": "what is one", "response": "answer"},
    {"prompt": "weather", "response": "bad"},
]


def test_bm25_equals_the_formula():
    words = [Counter(re.findall(r"\w\w+", f"{r['prompt']} {r['response']}")) for r in ROWS]
    mean = sum(sum(c.values()) for c in words) / len(words)
    table = []
    for query in QUERIES:
        asked = re.findall(r"\w\w+", f"{query['prompt']} {query['response']}")
        line = []
        for counts in words:
            score = 0.0
            for word in asked:
                n = sum(word in c for c in words)
                idf = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
                damping = 1.5 * (1 - 0.75 + 0.75 * sum(counts.values()) / mean)
                score += idf * counts[word] * 2.5 / (counts[word] + damping)
            line.append(score)
        table.append(line)
    ranking = rank(None, "bm25", queries=QUERIES, data=ROWS)
    np.testing.assert_allclose(ranking.per_query, table, rtol=1e-5)
    assert ranking.top_k(1) == ["a"]
    with pytest.raises(RankingError, match="no word"):
        rank(None, "bm25", queries=QUERIES, data=[{"prompt": "a", "response": "!"}])


@pytest.mark.parametrize("per_word", [False, True])
def test_dsir_equals_the_formula(per_word):
    """With more buckets than words no two words meet, so that words can be counted plainly."""

    def grams(row):
        words = re.findall(r"\w\w+", f"{row['prompt']} {row['response']}")
        return Counter([*words, *map(" ".join, pairwise(words))])

    n = 2**20
    pool, asked = (sum(map(grams, rows), Counter()) for rows in (ROWS, QUERIES))
    scores = []
    for row in ROWS:
        weight = sum(
            count * math.log(((asked[gram] + 1) / (asked.total() + n))
                             / ((pool[gram] + 1) / (pool.total() + n)))
            for gram, count in grams(row).items()
        )  # fmt: skip
        scores.append(weight / grams(row).total() if per_word else weight)
    ranking = rank(None, "dsir", queries=QUERIES, data=ROWS, n_buckets=n, per_word=per_word)
    np.testing.assert_allclose(ranking.scores, scores, rtol=1e-9)
    with pytest.raises(RankingError, match="no word"):
        rank(None, "dsir", queries=QUERIES, data=[{"prompt": "a", "response": "!"}])


def test_hidden_state_similarity_equals_one_row_at_a_time(tmp_path):
    from influcoder_lightning.data.tiny_model import build_tokenizer

    model = tiny_peft()
    width = model.config.vocab_size

    tokenizer = build_tokenizer(["what is question one"], 259, tmp_path)
    if len(tokenizer) > width:
        model.resize_token_embeddings(len(tokenizer))

    def embed(row):
        ids = tokenize_rows([row], tokenizer, "{prompt}:{response}", 64)[0]["input_ids"]
        with torch.no_grad():
            states = model.eval()(ids[None], output_hidden_states=True).hidden_states[-1][0]
        total = sum((i + 1) * s for i, s in enumerate(states))
        return total / total.norm()

    ranking = rank(
        None, "rds", queries=QUERIES, data=ROWS, model=model, tokenizer=tokenizer,
        template="{prompt}:{response}", max_length=64, batch_size=2,
    )  # fmt: skip
    expected = [[float(embed(q) @ embed(r)) for r in ROWS] for q in QUERIES]
    np.testing.assert_allclose(ranking.per_query, expected, atol=1e-5)
    with pytest.raises(RankingError, match="pass model="):
        rank(None, "rds", queries=QUERIES, data=ROWS)
