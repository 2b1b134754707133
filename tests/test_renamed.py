"""Modules of release 0.1 that have another name now."""

from __future__ import annotations

import importlib
import sys

import pytest

from influcoder_lightning.renamed import _NOW


@pytest.mark.parametrize(
    ("old", "new"), [*_NOW.items(), ("probing.prober", "influence.probing.prober")]
)
def test_an_old_name_is_the_same_module_and_warns(old, new):
    sys.modules.pop(f"influcoder_lightning.{old}", None)
    with pytest.warns(DeprecationWarning, match="goes in the next release"):
        found = importlib.import_module(f"influcoder_lightning.{old}")
    assert found is importlib.import_module(f"influcoder_lightning.{new}")


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="probe"):
        importlib.import_module("influcoder_lightning.probe")
