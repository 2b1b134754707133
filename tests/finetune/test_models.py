"""Names of models: what can only be a folder is not asked for at the hub."""

from __future__ import annotations

import pytest

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.models import refuse_missing_folder


@pytest.mark.parametrize(
    "name", ["./gone", "../gone", "/gone", "~/gone", "runs/frist/model", "runs/gone"]
)
def test_a_folder_that_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match=r"model\.name=.*no such folder"):
        refuse_missing_folder(name, "model.name")


@pytest.mark.parametrize("name", ["gpt2", "owner/name", "runs", "runs/there", "./runs/there"])
def test_hub_names_and_folders_pass(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "there").mkdir(parents=True)
    refuse_missing_folder(name, "model.name")


def test_a_text_encoder_likewise(tmp_path):
    pytest.importorskip("sentence_transformers")
    from influcoder_lightning.encoder.sentence_tower import load_sentence_encoder

    with pytest.raises(ConfigError, match=r"text_encoder=.*no such folder"):
        load_sentence_encoder(str(tmp_path / "gone"))
