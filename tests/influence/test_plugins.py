"""Ranking methods that installed packages bring along, as entry points."""

from __future__ import annotations

import sys

import pytest

from influcoder_lightning import Ranking, available_methods, rank
from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence import registry
from influcoder_lightning.influence.method import METHODS, built_in
from influcoder_lightning.report.press.glossary import definition

ROWS = [{"prompt": "Hi", "response": "ho"}, {"prompt": "Hello", "response": "ho"}]
METHOD = """
from influcoder_lightning.influence import Ranking{register}

{decorator}
def ours(request, *, sign=1):
    ids, rows = request.data_rows()
    return Ranking(ids, [sign * len(row["prompt"]) for row in rows])
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a package with one method, as pip would leave it on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str, name: str = "ours", value: str = "our_methods:ours") -> None:
        sys.modules.pop("our_methods", None)
        (tmp_path / "our_methods.py").write_text(code, encoding="utf-8")
        folder = tmp_path / "our_methods-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: our-methods\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{registry.PLUGINS}]\n{name} = {value}\n")

    yield write
    sys.modules.pop("our_methods", None)
    METHODS.pop("ours", None)


@pytest.mark.parametrize(("register", "decorator"), [("", ""), (", register", "@register('ours')")])
def test_a_method_of_an_installed_package_is_found_by_name(install, register, decorator):
    install(METHOD.format(register=register, decorator=decorator))
    assert "ours" in available_methods()
    assert "our_methods" not in sys.modules, "imported only when it is used"
    ranking = rank(None, "ours", data=ROWS)
    assert isinstance(ranking, Ranking)
    assert ranking.top_k(1) == [1]
    assert rank(None, "ours", data=ROWS, sign=-1).top_k(1) == [0]
    with pytest.raises(RankingError, match="no option other"):
        rank(None, "ours", data=ROWS, other=1)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import no_such_module_anywhere", "our-methods cannot be imported.*no_such_module"),
        ("raise SystemError('at import')", "our-methods cannot be imported.*at import"),
        ("ours = 3", "no function"),
    ],
)
def test_a_broken_package_is_named(install, code, complaint):
    install(code)
    with pytest.raises(RankingError, match=complaint):
        rank(None, "ours", data=ROWS)


def test_a_package_cannot_take_the_place_of_a_built_in_method(install):
    install(METHOD.format(register="", decorator=""), name="bm25")
    ranking = rank(None, "bm25", queries=ROWS, data=ROWS)
    assert ranking.method == "bm25"
    assert "our_methods" not in sys.modules


def test_a_method_says_what_it_needs_or_nothing(install):
    install(METHOD.format(register="", decorator=""))
    assert registry.get_method("ours").needs is None
    assert registry.get_method("bm25").needs == {"text", "queries"}
    assert registry.get_method("less").requires("updates")
    with pytest.raises(RankingError, match=r"needs=\['tokens'\].*text, tower, model"):
        registry.register("theirs", needs={"tokens"})(lambda request: None)
    assert "theirs" not in available_methods()


def test_every_built_in_method_says_what_it_needs_and_how_it_ranks():
    for name in sorted(built_in()):
        method = registry.get_method(name)
        assert method.needs, name
        assert str(definition(name)).endswith("."), name
