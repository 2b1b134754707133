"""recipe=verify: a sound run passes, each kind of damage is one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from small_store import write

from influcoder_lightning import InfluenceStore
from influcoder_lightning.cli import run_recipe


@pytest.fixture
def source(tmp_path):
    """A run folder with a store, a ranking and a choice."""
    folder = tmp_path / "valued"
    (folder / "influence").mkdir(parents=True)
    write(folder / "influence" / "influence.h5", [f"id {i}" for i in range(9)])
    InfluenceStore(folder).rank("cosine").save(folder / "ranking.csv")
    row = {"prompt": "a", "response": "b", "id": "id 1", "influence_score": 1.0}
    (folder / "selected.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "config.yaml").write_text("train: {lr: 0.001}\n")
    return folder


def verify(source, folder):
    GlobalHydra.instance().clear()
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["recipe=verify", f"from={source}"])
    folder.mkdir()
    run_recipe("verify", cfg, folder, ["recipe", "from"])


def test_a_sound_run_passes_and_says_what_was_checked(source, tmp_path):
    verify(source, tmp_path / "out")
    checked = json.loads((tmp_path / "out" / "verify.json").read_text())["checked"]
    assert list(checked) == ["influence/influence.h5", "ranking.csv", "selected.jsonl"]
    assert "compared with their checksums" in checked["influence/influence.h5"]
    assert checked["ranking.csv"].startswith("9 scores")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("influence/influence.h5", b"id 3", b"id 4"),  # in no attribute: only a checksum knows
        ("ranking.csv", b"id 3", b"id 4"),
        ("selected.jsonl", b'"response"', b'"resp\x00nse"'),
    ],
)
def test_damage_is_one_line_that_names_the_file(source, tmp_path, capsys, name, old, new):
    content = (source / name).read_bytes()
    assert old in content
    (source / name).write_bytes(content.replace(old, new, 1))
    with pytest.raises(SystemExit) as stop:
        verify(source, tmp_path / "out")
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert Path(name).name in error
    assert not (tmp_path / "out" / "verify.json").exists()


def test_a_folder_with_nothing_to_check_is_refused(source, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text("train: {lr: 0.001}\n")
    with pytest.raises(SystemExit):
        verify(empty, tmp_path / "out")
    assert "no store" in capsys.readouterr().err
