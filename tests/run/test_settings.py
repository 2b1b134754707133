"""Settings are plain data: what a file holds means itself, in every later step."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.recipes import recipe_called
from influcoder_lightning.run.config import defaults
from influcoder_lightning.run.run_folder import absolute_paths, continue_run
from influcoder_lightning.run.saved_config import as_yaml, begin_config, load_config, save_config
from influcoder_lightning.run.settings import Settings, literal, plain, resolved

MARKS = [
    "${",
    "}",
    "\\",
    ":",
    "oc.env:SECRET",
    "???",
    "'",
    '"',
    "#",
    "\n",
    "~",
    "*",
    "&x",
    "%s",
    ".",
    "\x85",
    "\u2028",
]
TEXTS = st.lists(
    st.sampled_from(MARKS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    max_size=8,
).map(lambda parts: "".join(parts).replace("\0", ""))
LEAK = "${oc.env:SECRET}"


def own(**keys: object) -> Settings:
    cfg = resolved(defaults()).copy()
    for key, value in keys.items():
        cfg.put(key.replace("__", "."), value)
    return cfg


@settings(deadline=None, max_examples=8, database=None)
@given(TEXTS, st.dictionaries(TEXTS, TEXTS, min_size=8, max_size=12))
def test_text_stays_literal_through_a_chain_of_steps(tmp_path_factory, text, scores):
    folder = tmp_path_factory.mktemp("chain")
    cfg = own(model__template=f"<{text}", icp__template=f"<{text}", data__query=f"/{text}")
    cfg.lds.scores = {name: f"/{value}" for name, value in scores.items()}
    for number, recipe in enumerate(["valuate", "loop"]):
        here = folder / str(number)
        save_config(absolute_paths(cfg), here, fact=text)
        loaded = load_config(here)
        assert loaded.facts.fact == text
        cfg = absolute_paths(continue_run(own(**{"from": str(here)}), recipe_called(recipe), []))
        assert plain(cfg)["model"]["template"] == f"<{text}"
        assert cfg.data.query == str(Path(f"/{text}"))
    first = load_config(folder / "0")  # icp and lds are a step's own
    assert first.icp.template == f"<{text}"
    assert first.lds.scores == {name: str(Path(f"/{value}")) for name, value in scores.items()}


def test_a_line_break_of_another_alphabet_is_kept():
    for mark in "\x85\u2028\u2029\r\n":
        content = {f"'{mark}": [f"{mark}x", f"#{mark}", mark]}
        assert OmegaConf.to_container(OmegaConf.create(as_yaml(content))) == content


@settings(deadline=None, max_examples=60, database=None)
@given(TEXTS)
def test_hydra_reads_a_literal_text_as_it_is(text):
    given = OmegaConf.create(literal({"a": {"b": [text]}}))
    if text != "???":
        assert OmegaConf.to_container(given, resolve=True) == {"a": {"b": [text]}}


def _strings(content: object) -> object:
    """The same content, every text in it an interpolation of the environment."""
    if isinstance(content, dict):
        return {key: _strings(value) for key, value in content.items()}
    return LEAK if content is None or isinstance(content, str) else content


@pytest.mark.parametrize("recipe", ["select", "compare", "retrain", "pipeline", "loop", "score"])
def test_no_variable_of_this_machine_gets_into_what_a_run_writes(tmp_path, monkeypatch, recipe):
    monkeypatch.setenv("SECRET", "topsecret")
    monkeypatch.setenv("HOME", "/home/topsecret")
    source = tmp_path / "source"
    source.mkdir()
    (source / "ranking.csv").write_text("sample_id,score\na,1\n")
    (source / "selected.jsonl").write_text("")
    content = yaml.safe_load(OmegaConf.to_yaml(defaults()))
    for section in ("model", "data", "lora", "rank"):
        content[section] = _strings(content[section])
    content["lora"]["r"], content["lora"]["alpha"] = 8, 16
    content["lora"]["dropout"] = 0.0
    content["lora"] |= {"lora_alpha": None, "lora_dropout": None, "init_lora_weights": "default"}
    content["lora"] |= {"modules_to_save": None, "bias": "none"}
    content["model"] |= {"dtype": "float32", "quantization": "none"}
    content["data"]["query"] = "~/x"
    content["data"] |= {"train_on": "assistant", "too_long": "cut_prompt", "unit": "conversation"}
    content["facts"] = {"pool": LEAK}
    (source / "config.yaml").write_text(yaml.safe_dump(content))
    cfg = continue_run(own(**{"from": str(source)}), recipe_called(recipe), [])
    cfg = absolute_paths(cfg)
    begin_config(cfg, tmp_path / "run")
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert "topsecret" not in written
    assert LEAK in written


def test_a_tilde_of_the_command_line_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = own(data__pool="~/pool.jsonl")
    assert absolute_paths(cfg, home=True).data.pool == "/home/me/pool.jsonl"
    assert absolute_paths(cfg).data.pool == str(Path("~/pool.jsonl").absolute())


def test_the_users_own_interpolations_are_worked_out_once():
    cfg = OmegaConf.create({"a": "x", "b": "${a}/y", "c": r"\${a}"})
    assert resolved(cfg) == {"a": "x", "b": "x/y", "c": "${a}"}
    with pytest.raises(ConfigError, match="cannot be resolved"):
        resolved(OmegaConf.create({"a": "${nothing}"}))


def test_copies_share_nothing():
    cfg = Settings({"a": {"b": [1]}})
    other = cfg.copy()
    other.a.b.append(2)
    other.put("a.c", {"d": 1})
    assert cfg == {"a": {"b": [1]}}
    assert other.a.c.d == 1
    assert cfg.at("a.b") == [1]
    assert cfg.at("a.b.c") is None
    with pytest.raises(AttributeError, match="no key 'x'"):
        _ = cfg.x


def test_a_run_is_described_until_a_later_one_is_behind_its_checks(tmp_path):
    begin_config(own(seed=1), tmp_path)
    assert load_config(tmp_path).complete is False
    begin_config(own(seed=2), tmp_path)  # the first one got nowhere
    save_config(own(seed=2), tmp_path, complete=False, pool="p")
    begin_config(own(seed=3), tmp_path)  # may still be refused
    assert load_config(tmp_path).seed == 2
    save_config(own(seed=3), tmp_path, pool="p")
    assert load_config(tmp_path).complete is True
