"""Every malformed input of the corpus: a documented error, and nothing else happens."""

from __future__ import annotations

import hashlib
import json

import corpus_batches
import corpus_blocks
import corpus_configs
import corpus_models
import corpus_rankings
import corpus_rows
import corpus_scores
import corpus_segments
import corpus_stores
import corpus_towers
import pytest
from corpus import Case, made, meet, tree

CASES: list[Case] = [
    *corpus_rows.CASES,
    *corpus_scores.CASES,
    *corpus_rankings.CASES,
    *corpus_configs.CASES,
    *corpus_batches.CASES,
    *corpus_towers.CASES,
    *corpus_models.CASES,
    *corpus_stores.CASES,
    *corpus_segments.CASES,
    *corpus_blocks.CASES,
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_malformed_input_is_met(case, tmp_path):
    meet(case, tmp_path)


def test_the_corpus_is_large_and_nothing_in_it_is_twice(tmp_path):
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)
    contents = set()
    for number, case in enumerate(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = repr(made(case, folder)).replace(str(folder), "") + json.dumps(tree(folder))
        contents.add((case.surface, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()))
    assert len(contents) == len(CASES)
    assert len(CASES) >= 600
