import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import row_ids
from influcoder_lightning.data.overlap import check_overlap
from influcoder_lightning.data.skills import SKILLS, make_skill_data
from influcoder_lightning.errors import ConfigError


@pytest.fixture(scope="module")
def data():
    return make_skill_data(0)


def test_sizes_and_skills(data):
    assert [len(part) for part in (data.pretrain, data.pool, data.query, data.evaluation)] == [
        3000, 600, 30, 60]  # fmt: skip
    assert Counter(row["task"] for row in data.pool) == dict.fromkeys(SKILLS, 100)
    assert {row["task"] for row in data.query + data.evaluation} == {"translate"}
    assert Counter(row["task"] for row in data.pretrain)["translate"] == 30


def test_no_text_is_shared_between_the_parts(data):
    assert check_overlap(data.pool + data.pretrain, data.query, data.evaluation) == []
    assert check_overlap(data.pretrain, data.pool) == []


def test_planted_truth_is_in_every_skill(data):
    rows = dict(zip(row_ids(data.pool), data.pool, strict=True))
    assert len(rows) == 600
    corrupted = [rows[name] for name in data.corrupted_ids]
    copies = [rows[name] for name in data.duplicate_ids]
    assert Counter(row["task"] for row in corrupted) == dict.fromkeys(SKILLS, 10)
    assert Counter(row["task"] for row in copies) == dict.fromkeys(SKILLS, 5)
    texts = Counter((row["prompt"], row["response"]) for row in data.pool)
    for row in copies:
        original = rows[row["duplicate_of"]]
        assert original["id"] != row["id"]
        assert original["duplicate_of"] is None
        assert (original["prompt"], original["response"]) == (row["prompt"], row["response"])
        assert not original["corrupted"]
    assert sum(count == 2 for count in texts.values()) == len(copies)


def test_a_corrupted_response_is_wrong_and_belongs_to_another_row():
    # Without corruption the same seed draws the same prompts with the right responses.
    sound = {r["prompt"]: r["response"] for r in make_skill_data(3, corrupted_share=0).pool}
    pool = make_skill_data(3, corrupted_share=0.1).pool
    for row in pool:
        if row["prompt"] in sound:
            assert (row["response"] == sound[row["prompt"]]) != row["corrupted"]


def test_the_same_seed_gives_the_same_rows(data):
    assert make_skill_data(0) == data
    assert make_skill_data(1).pool != data.pool


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(list(SKILLS)), st.integers(1, 80))
def test_any_skill_can_be_the_query(seed, skill, n_pool):
    data = make_skill_data(seed, query_skill=skill, n_pool=n_pool, n_pretrain=100)
    assert len(data.pool) == n_pool
    assert {row["task"] for row in data.query} == {skill}
    check_overlap(data.pool, data.query, data.evaluation)


def test_impossible_requests_are_refused():
    with pytest.raises(ConfigError, match="Choose one of"):
        make_skill_data(query_skill="juggle")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        make_skill_data(corrupted_share=0.9, duplicate_share=0.1)
    with pytest.raises(ConfigError, match="too few different prompts"):
        make_skill_data(n_pool=60_000)


def test_importing_the_package_is_cheap():
    code = "import sys, influcoder_lightning.data as d; dir(d); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
