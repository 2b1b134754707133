"""The sentence at the top of a report, against scipy's paired t test and against its words."""

import doctest

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning.report.findings import headline as module
from influcoder_lightning.report.findings.comparison import summarise_arms
from influcoder_lightning.report.findings.headline import (
    cautions,
    certainty,
    difference,
    headline_of,
    verdict,
)
from influcoder_lightning.report.press.blocks import Number, Numbers, Text

losses = st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)), min_size=2, max_size=6)


def compared(top, control, k=80):
    arms = {"top_k": top, "random_k": control}
    return summarise_arms(arms, k=k, steps=5, seeds=len(top))


def said(top, control):
    found = difference(compared(top, control), "top_k", "random_k")
    return verdict(found, "top_k", "random_k", 80), certainty(found)


@given(losses)
@settings(deadline=None)  # scipy loads in the first
def test_the_difference_is_scipys_paired_interval(pairs):
    top, control = map(list, zip(*pairs, strict=True))
    found = difference(compared(top, control), "top_k", "random_k")
    values = np.subtract(top, control)
    assert found.mean == pytest.approx(values.mean())
    if np.std(values) < 1e-9:  # scipy warns of what it cannot divide
        assert found.ci95 == pytest.approx((found.mean, found.mean), abs=1e-6)
        return
    expected = scipy.stats.ttest_rel(top, control).confidence_interval(0.95)
    assert found.ci95 == pytest.approx(tuple(expected), rel=1e-6, abs=1e-9)
    assert found.clear == bool(scipy.stats.ttest_rel(top, control).pvalue < 0.05)


@given(losses)
@settings(deadline=None)  # scipy loads in the first
def test_nothing_is_claimed_that_the_interval_does_not_carry(pairs):
    top, control = map(list, zip(*pairs, strict=True))
    found = difference(compared(top, control), "top_k", "random_k")
    sentence = verdict(found, "top_k", "random_k", 80)
    assert (" beat 80" in sentence and "Not shown" not in sentence) == (
        found.clear and found.mean < 0
    )
    assert ("do worse" in sentence) == (found.clear and found.mean > 0)


def test_a_clear_win():
    sentence, sure = said([2.0, 2.1, 2.05], [3.0, 3.2, 3.1])
    assert sentence.startswith("The 80 best samples beat 80 random ones: held-out loss is lower by")
    assert "1.05 nats [" in sentence
    assert "lie apart as well" in sure


def test_a_win_only_seed_by_seed():
    sentence, sure = said([1.0, 2.0, 3.0], [1.2, 2.21, 3.2])
    assert " beat " in sentence
    assert "overlap, though" in sure


def test_a_loss_and_a_draw():
    assert "do worse than 80 random ones" in said([3.0, 3.1, 3.2], [2.0, 2.1, 2.2])[0]
    sentence, sure = said([2.0, 3.0, 2.5], [2.4, 2.5, 2.9])
    assert sentence.startswith("Not shown that the 80 best samples beat 80 random ones")
    assert "zero included" in sure
    assert "do equally well" in said([2.0, 2.0], [2.0, 2.0])[0]


def test_one_seed_claims_nothing():
    sentence, sure = said([2.0], [3.0])
    assert sentence.startswith("In a single run")
    assert "One seed says nothing about chance" in sure


def test_blocks_of_a_page():
    lead, sure, numbers = headline_of(compared([2.0, 2.1, 2.05], [3.0, 3.2, 3.1]))
    assert isinstance(lead, Text)
    assert lead.lead
    assert not sure.lead
    assert isinstance(numbers, Numbers)
    first = Number(
        "top_k against random_k", "\u22121.05 nats", "95 % interval \u22121.17 to \u22120.93"
    )
    assert numbers.items[0] == first
    assert headline_of(summarise_arms({"top_k": [1.0]}, k=1, steps=1, seeds=1)) == []


def test_docstring_example():
    result = doctest.testmod(__import__(module.__name__, fromlist=["_"]))
    assert result.attempted
    assert not result.failed


def test_a_choice_that_is_worse_than_no_training_or_than_another_arm():
    arms = {"top_k": [1.2, 1.21], "random_k": [1.6, 1.7], "full": [1.0, 1.1], "base": [0.98]}
    comparison = summarise_arms(arms, k=5, steps=5, seeds=2)
    no_help, better = cautions(comparison, "top_k")
    assert "did not help" in no_help
    assert "0.980" in no_help
    assert better.endswith("full 1.050.")
    said = [block.text for block in headline_of(comparison) if isinstance(block, Text)]
    assert {no_help, better} <= set(said)
    arms |= {"base": [1.3], "full": [1.4, 1.4]}
    assert cautions(summarise_arms(arms, k=5, steps=5, seeds=2), "top_k") == []
