"""conf/: every key explained, and the callback's group says what the callback says."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from influcoder_lightning import InfluenceCallback
from influcoder_lightning.configuration.influence import OfCallback
from influcoder_lightning.configuration.key import keys, values
from influcoder_lightning.configuration.sections import Config
from influcoder_lightning.run.config import defaults

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))


def commented(node: yaml.MappingNode, lines: list[str], path: str) -> Iterator[tuple[str, str]]:
    """Name and trailing comment of each key; Hydra's own sections are left out."""
    for key, value in node.value:
        name = f"{path}{key.value}"
        if name in ("defaults", "hydra"):
            continue
        block = isinstance(value, yaml.MappingNode) and not value.flow_style
        end = key.end_mark if block else value.end_mark
        yield name, lines[end.line][end.column :].partition("#")[2].strip()
        if block:
            yield from commented(value, lines, f"{name}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_file_and_every_key_has_a_comment(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0].startswith("#"), "a file begins with what it is for"
    root = yaml.compose(text)
    if root is None or path.parent.name == "recipe":  # a recipe sets keys that config.yaml explains
        return
    logger = path.parent.name in ("logger", "callbacks")  # their one section is the file's name
    bare = [
        name
        for name, comment in commented(root, lines, "")
        if not comment and not (logger and name == path.stem)
    ]
    assert bare == []


def test_every_key_has_a_help_of_one_line_and_a_default_of_its_kind():
    for section in (Config, OfCallback):
        for key in keys(section):
            assert key.help
            assert "\n" not in key.help
            if key.name != "rank.method":
                assert key.default is None or not key.fault(key.default), key


def test_recipes_set_only_keys_of_the_configuration():
    known = defaults()
    for path in sorted((CONF / "recipe").glob("*.yaml")):
        settings = OmegaConf.load(path)

        def check(node, prefix, path=path):
            for name, value in node.items():
                key = f"{prefix}{name}"
                missing = OmegaConf.select(known, key, default="missing")
                assert missing != "missing", f"{path.name}: {key}"
                if OmegaConf.is_dict(value):
                    check(value, f"{key}.")

        check(settings, "")


def test_the_callbacks_group_has_the_callbacks_arguments_and_defaults():
    node = OmegaConf.load(CONF / "callbacks" / "influence.yaml").influence
    parameters = inspect.signature(InfluenceCallback).parameters
    given = {k: v for k, v in node.items() if not k.startswith("_")}
    assert given == {name: parameter.default for name, parameter in parameters.items()}
    assert isinstance(instantiate(node), InfluenceCallback)


def test_the_callbacks_arguments_are_the_options_that_are_declared():
    parameters = inspect.signature(InfluenceCallback).parameters
    assert values(OfCallback) == {name: p.default for name, p in parameters.items()}
    arguments = (InfluenceCallback.__doc__ or "").partition("Raises:")[0]
    documented = re.findall(r"^        (\w+): ", arguments, re.MULTILINE)
    assert documented == [*parameters]


def test_the_callbacks_group_is_written_from_them(monkeypatch):
    monkeypatch.syspath_prepend(str(CONF.parent / "docs" / "_ext"))
    generator = importlib.import_module("callback_group")
    assert generator.FILE.read_text(encoding="utf-8") == generator.group(), (
        "run `python docs/_ext/callback_group.py`"
    )


def test_the_recipes_section_has_arguments_of_the_callback():
    section = values(Config)["influence"]
    assert section.items() <= values(OfCallback).items()
