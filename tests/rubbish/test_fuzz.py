"""A few of the cases that `benchmarks/fuzz.py` runs by the thousand."""

from __future__ import annotations

import pytest
from fuzz_kinds import KINDS
from fuzzing import fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind):
    found = fuzz(kind, cases=20, seed=1)
    assert not found["failures"]
    assert found["tried"] == 20
