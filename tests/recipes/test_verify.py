"""recipe=verify: a sound run passes, each kind of damage is one line that names the file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from small_store import write

from influcoder_lightning import InfluenceStore
from influcoder_lightning.cli import run_recipe
from influcoder_lightning.encoder.gradient_tower import TOWERS, RandomProjection
from influcoder_lightning.errors import StoreError
from influcoder_lightning.recipes.verify import read_towers
from influcoder_lightning.store.folder import RunFolder
from influcoder_lightning.store.integrity import read_adapters, read_segments
from influcoder_lightning.store.segments import FeatureBlock, SegmentWriter
from influcoder_lightning.tensors import tensor_blocks


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


@pytest.fixture
def killed(tmp_path):
    """A run folder whose process died: two segments, one tower version, an adapter."""
    folder = tmp_path / "valued"
    store = folder / "influence"
    run = RunFolder(store)
    settings = {"code_dim": 2, "sketch_dim": 4, "keep_sketches": True, "layers": []}
    settings["attributes"] = {"config": {}, "lora": {}}
    run.start({"world_size": 1, "bounds": {"rows": 9, "seconds": 9}, "store": settings})
    segments = SegmentWriter(store, 0, max_rows=9, max_seconds=9)
    columns = dict.fromkeys(("window", "epoch", "step", "n_tokens", "tower_version"), 0)
    for ids in ([0, 1], [2]):
        sketch = np.ones((len(ids), 4), "f4")
        code, ones = np.ones((len(ids), 2), "f2"), np.ones(len(ids), "f4")
        segments.see(ids)
        values = columns | {"loss": 0.5, "learning_rate": 0.1}
        segments.append("rows", ids, values, FeatureBlock(ones, code, ones, sketch))
        segments.seal()
    tower = RandomProjection(4, 2, seed=0)
    tower.save(store / TOWERS, 0)
    (store / "adapters" / "window_00000").mkdir(parents=True)
    weights = {"a": torch.arange(5.0), "b": torch.ones(2, 3).half()}
    path = store / "adapters" / "window_00000" / "adapter_model.safetensors"
    path.write_bytes(b"".join(tensor_blocks(weights)))
    run.release()
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


def test_a_run_that_was_killed_is_checked_as_it_lies(killed, tmp_path):
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    verify(killed, tmp_path / "out")
    checked = json.loads((tmp_path / "out" / "verify.json").read_text())["checked"]
    assert list(checked) == ["influence/segments", "influence/encoder", "influence/adapters"]
    assert checked["influence/segments"].startswith("2 segments of 3 rows")
    assert before == {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}


def accepted(path, store, at):
    """Whether nothing is said of a flipped bit; what is said names the file."""
    content = path.read_bytes()
    path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for read in (read_segments, read_towers, read_adapters):
                read(store)
    except (StoreError, UserWarning) as error:
        return path.name not in str(error)
    finally:
        path.write_bytes(content)
    return True


def test_a_flip_of_any_byte_of_a_run_that_was_killed_is_noticed(killed):
    """But in the name of a checksum, which costs the checksum and nothing else."""
    store = killed / "influence"
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        content = path.read_bytes()
        places = set(range(0, len(content), 1 if len(content) < 2000 else 331))
        for word in (b"crc32", b"checksum"):
            if path.name != "manifest.jsonl" and word in content:
                start = content.rindex(word)
                places -= {*range(start, start + len(word))}
        assert not [at for at in sorted(places) if accepted(path, store, at)], path


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
