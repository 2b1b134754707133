"""The reference names everything that is public, and every key of the configuration."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import influcoder_lightning
from influcoder_lightning.run.config import defaults

ROOT = Path(__file__).parents[2]
PYTHON = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")


@pytest.fixture
def configuration(monkeypatch):
    """The generator of the configuration's reference."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    yield importlib.import_module("configuration")
    del sys.modules["configuration"]


def test_every_public_name_is_in_the_python_reference():
    for name in influcoder_lightning.__all__:
        assert re.search(rf"^\.\. auto\w+:: ([\w.]+\.)?{name}$", PYTHON, re.MULTILINE), name


def leaves(node, prefix=""):
    for name in node:
        value = OmegaConf.select(node, str(name))
        # A section that is empty, or whose keys are the user's own, is one key.
        if isinstance(value, DictConfig) and len(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_key_is_in_the_configuration_reference_with_its_default(configuration):
    config = defaults()
    shown = dict(re.findall(r"^`([\w.]+): (.*)`$", configuration.keys_page(), re.MULTILINE))
    for key in leaves(config):
        expected = OmegaConf.select(config, key, throw_on_missing=False)
        assert OmegaConf.create({"key": OmegaConf.create(f"key: {shown[key]}").key}).key == expected


def test_what_a_recipe_sets_is_shown_at_the_key(configuration):
    page = configuration.keys_page()
    entry = page[page.index("`train.epochs: ") :].split("\n\n")[0]
    recipe = OmegaConf.load(ROOT / "conf" / "recipe" / "quickstart.yaml")
    assert f"quickstart: `{recipe.train.epochs}`" in entry


def test_a_recipe_is_shown_with_its_command(configuration):
    page = configuration.recipes_page()
    part = page[page.index("### compare") :].split("\n### ")[0]
    assert re.search(r"```bash\ninflucoder recipe=compare [^`]*\n```", part)


def test_comments_with_markup_are_taken_literally(configuration, tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text('a: 1   # of <b> [x](y) *z*\nb:\n  c: "x # y"   # why\n  d: [1, 2]\n')
    a, b = configuration.read(path)
    assert (a.name, a.value, a.comment) == ("a", "1", "of <b> [x](y) *z*")
    assert [(key.name, key.value, key.comment) for key in b.leaves()] == [
        ("b.c", '"x # y"', "why"),
        ("b.d", "[1, 2]", ""),
    ]
    assert "\\<b\\> \\[x\\](y) \\*z\\*" in "\n".join(configuration._entry(a, {}))
