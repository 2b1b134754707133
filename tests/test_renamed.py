"""Modules of release 0.1 that have another name now."""

from __future__ import annotations

import importlib
import sys

import pytest

from influcoder_lightning.renamed import _HANDED_ON, _NOW


@pytest.mark.parametrize(
    ("old", "new"), [*_NOW.items(), ("probing.prober", "influence.probing.prober")]
)
def test_an_old_name_is_the_same_module_and_warns(old, new):
    sys.modules.pop(f"influcoder_lightning.{old}", None)
    with pytest.warns(DeprecationWarning, match="goes in the next release"):
        found = importlib.import_module(f"influcoder_lightning.{old}")
    assert found is importlib.import_module(f"influcoder_lightning.{new}")


def test_names_of_a_module_that_is_a_package_now_are_found_in_it():
    finetune = importlib.import_module("influcoder_lightning.finetune")
    training = importlib.import_module("influcoder_lightning.finetune.training")
    with pytest.warns(DeprecationWarning, match=r"finetune\.training\.train;") as found:
        assert finetune.train is training.train
    assert found[0].filename == __file__
    with pytest.raises(AttributeError, match="no attribute 'trained'"):
        _ = finetune.trained


@pytest.mark.parametrize(
    ("package", "file", "name"),
    [
        (package, file, name)
        for package, files in _HANDED_ON.items()
        for file, names in files.items()
        for name in names.split()
    ],
)
def test_what_a_package_handed_on_is_still_found_in_it(package, file, name):
    old = importlib.import_module(f"influcoder_lightning.{package}")
    new = importlib.import_module(f"influcoder_lightning.{file}")
    with pytest.warns(DeprecationWarning, match="goes in the next release"):
        assert getattr(old, name) is getattr(new, name)


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="probe"):
        importlib.import_module("influcoder_lightning.probe")
