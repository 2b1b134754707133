"""constraints.txt has an exact version for everything that the README's commands install."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "constraints.txt").read_text(encoding="utf-8")
COMMAND = ".ci/lock"


def pins():
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    return {name: Version(version) for name, version in (line.split("==") for line in lines)}


def direct():
    """Every direct requirement, those of all extras included."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    found = [Requirement(line) for line in lines]
    return [item for item in found if canonicalize_name(item.name) != PROJECT["name"]]


def installed(name, extras):
    """Names and versions of what `name[extras]` needs, as far as it is installed."""
    found, waiting = {}, [(name, frozenset(extras))]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[canonicalize_name(name)] = Version(distribution.version.partition("+")[0])
        for item in map(Requirement, distribution.requires or []):
            wanted = item.marker is None or any(
                item.marker.evaluate({"extra": extra}) for extra in extras or [""]
            )
            pair = (item.name, frozenset(item.extras))
            if wanted and pair not in seen:
                seen.add(pair)
                waiting.append(pair)
    return found


def test_every_direct_dependency_is_locked_at_a_version_in_its_range():
    locked = pins()
    wrong = [str(item) for item in direct() if canonicalize_name(item.name) not in locked]
    assert not wrong, f"not in constraints.txt: {wrong}; run {COMMAND}"
    wrong = [
        f"{item.name} {locked[canonicalize_name(item.name)]} is not {item.specifier}"
        for item in direct()
        if locked[canonicalize_name(item.name)] not in item.specifier
    ]
    assert not wrong, f"constraints.txt is older than pyproject.toml: {wrong}; run {COMMAND}"


def test_all_that_is_installed_from_the_lock_is_in_the_lock():
    found = installed(PROJECT["name"], ["test", "docs"])
    del found[PROJECT["name"]]
    locked = pins()
    other = {n: str(v) for n, v in found.items() if locked.get(n, v) != v}
    if other:
        pytest.skip(f"this environment was not installed from constraints.txt: {other}")
    assert found.keys() <= locked.keys(), f"run {COMMAND}"
    assert len(found) > 100


def test_every_direct_dependency_has_a_lower_bound():
    without = [str(i) for i in direct() if not re.search("[>=]=", str(i.specifier))]
    assert not without


def test_the_readmes_two_commands_and_the_installing_pages_take_the_lock():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    two = [line for line in readme.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert len(two) == 2
    assert all(" PIP_CONSTRAINT=constraints.txt " in line for line in two)
    for page in ("CONTRIBUTING.md", "docs/tutorial.md"):
        lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
        installs = [line for line in lines if line.startswith("pip install ")]
        assert installs
        assert all(" -c constraints.txt " in line for line in installs), page


def test_the_lock_names_the_command_that_made_it_as_contributing_does():
    assert f"Written by `{COMMAND}`" in LOCK
    assert COMMAND in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert (ROOT / COMMAND).is_file()
