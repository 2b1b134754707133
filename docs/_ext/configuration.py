"""The reference of the configuration, made from its declaration and `conf/` for the site.

A page says where: a line `<!-- generated: keys -->` becomes every key with its default, its
help and the recipes that set it; `<!-- generated: recipes -->` every recipe with the comment at
its head.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from influcoder_lightning.configuration.key import keys, sections
from influcoder_lightning.configuration.sections import Config
from influcoder_lightning.run.config import RECIPES

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CONF = Path(__file__).parents[2] / "conf"
_GENERATED = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Key:
    """One key of a YAML file.

    Attributes:
        name: with those of its sections, joined by dots.
        value: as the file writes it; None for a section.
        comment: what stands behind it.
        keys: of a section.
    """

    name: str
    value: str | None
    comment: str
    keys: list[Key] = field(default_factory=list)

    def leaves(self) -> Iterator[Key]:
        """The keys with a value, in order."""
        if self.value is not None:
            yield self
        for key in self.keys:
            yield from key.leaves()


def read(path: Path, section: str = "") -> list[Key]:
    """The keys of a configuration file, without Hydra's own, as keys of a section."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text)
    if root is None:
        return []
    return _keys(root, text.splitlines(), section)


def _keys(node: yaml.MappingNode, lines: list[str], prefix: str) -> list[Key]:
    found = []
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name in ("defaults", "hydra"):
            continue
        block = isinstance(value, yaml.MappingNode) and not value.flow_style and value.value
        end = key.end_mark if block else value.end_mark
        rest = lines[end.line][end.column :]
        comment = rest.partition("#")[2].strip()
        if block:
            found.append(Key(name, None, comment, _keys(value, lines, f"{name}.")))
        else:
            start = value.start_mark
            written = lines[start.line][start.column : end.column] if start.line == end.line else ""
            found.append(Key(name, written or "null", comment))
    return found


def heading(path: Path) -> list[str]:
    """The comment at the head of a file, without Hydra's package line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def keys_page() -> str:
    """Markdown: every key of the command, then those of the other groups."""
    recipes = {name: read(CONF / "recipe" / f"{name}.yaml") for name in RECIPES}
    overrides: dict[str, list[str]] = {}
    for recipe, found in recipes.items():
        for leaf in (leaf for key in found for leaf in key.leaves()):
            overrides.setdefault(leaf.name, []).append(f"{recipe}: `{leaf.value}`")
    declared = [Key(key.name, as_written(key.default), key.help) for key in keys(Config)]
    parts = ["## Single keys", ""]
    for key in declared:
        if "." not in key.name:
            parts += _entry(key, overrides)
    for name, section in sections(Config):
        if "." in name:  # beside the other keys of its section
            continue
        parts += [f"## {name}", "", _escaped(inspect.cleandoc(section.__doc__ or "")), ""]
        for key in declared:
            if key.name.startswith(f"{name}."):
                parts += _entry(key, overrides)
    groups = []
    own = [name for name, _ in sections(Config)]
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir()):
        if folder.name in ("recipe", "__pycache__") or not list(folder.glob("*.yaml")):
            continue
        groups += [f"## Group {folder.name}", ""]
        for path in sorted(folder.glob("*.yaml")):
            groups += [f"### {folder.name}={path.stem}", "", *heading(path), ""]
            leaves = [leaf for key in read(path, f"{folder.name}.") for leaf in key.leaves()]
            if folder.name in own and leaves:  # keys of a section above
                sets = ", ".join(f"`{leaf.name}={leaf.value}`" for leaf in leaves)
                groups += [f"Sets {sets}.", ""]
                continue
            groups += [line for leaf in leaves for line in _entry(leaf, {})]
    return "\n".join([*parts, *groups])


def recipes_page() -> str:
    """Markdown: every recipe with the comment at its head; indented lines are commands."""
    parts = []
    for recipe in RECIPES:
        path = CONF / "recipe" / f"{recipe}.yaml"
        parts += [f"### {recipe}", ""]
        command = False
        for line in heading(path):
            if line.startswith("  ") != command:
                parts.append("```" if command else "\n```bash")
                command = not command
            parts.append(line[2:] if command else line)
        parts += ["```"] if command else []
        keys = [leaf for key in read(path) for leaf in key.leaves()]
        if keys:
            parts += ["", "Sets " + ", ".join(f"`{key.name}={key.value}`" for key in keys) + "."]
        parts.append("")
    return "\n".join(parts)


def as_written(default: object) -> str:
    """A default as the command line takes it."""
    if isinstance(default, str) and "\n" in default:
        return json.dumps(default)
    text = yaml.safe_dump(default, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _entry(key: Key, overrides: dict[str, list[str]]) -> list[str]:
    """A key as an entry of a definition list, with an anchor."""
    anchor = re.sub(r"[^a-z0-9-]", "-", key.name.lower())
    said = [_escaped(key.comment), ", ".join(overrides.get(key.name, []))]
    definition = ". ".join(part for part in said if part) or "see the section"
    return [f"{{#{anchor}}}", f"`{key.name}: {key.value}`", f": {definition}", ""]


def _escaped(comment: str) -> str:
    """A comment as Markdown, with nothing in it taken for markup."""
    return re.sub(r"([<>{}*\[\]|])", r"\\\1", comment)


_PAGES = {"keys": keys_page, "recipes": recipes_page}


def _generate(app: Sphinx, name: str, text: list[str]) -> None:
    if _GENERATED.search(text[0]):
        for path in CONF.rglob("*.yaml"):
            app.env.note_dependency(str(path))
        text[0] = _GENERATED.sub(lambda match: _PAGES[match[1]](), text[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _generate)
    return {"parallel_read_safe": True}
