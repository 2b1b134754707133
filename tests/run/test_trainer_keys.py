"""The groups trainer, optimizer, scheduler: short names, and what files may say of them."""

from __future__ import annotations

import inspect

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from test_settings import own

from influcoder_lightning.configuration.key import keys
from influcoder_lightning.configuration.trainer import TrainerArguments
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.trainers import trainer_of
from influcoder_lightning.run.saved_config import load_config, save_config
from influcoder_lightning.run.trainer_keys import SHORT, training_keys, with_short_names


def test_every_argument_of_the_trainer_is_a_key():
    assert {key.name for key in keys(TrainerArguments)} == {*inspect.signature(Trainer).parameters}


@pytest.mark.parametrize("short", SHORT)
def test_a_short_name_and_its_long_one_are_one_thing(short):
    long = SHORT[short]
    value = "bf16-mixed" if "precision" in short else 7
    given = own(**{long.replace(".", "__"): value})
    assert with_short_names(given, [long]).at(short) == value
    assert with_short_names(given, ["trainer"]).at(short) == value  # of a preset
    both = own(**{long.replace(".", "__"): value, short.replace(".", "__"): value})
    assert with_short_names(both, [short, long]).at(short) == value
    both.put(short, "16-mixed" if "precision" in short else 9)
    assert with_short_names(both, [short]).at(short) == both.at(short)
    with pytest.raises(ConfigError, match="two names of one thing"):
        with_short_names(both, [short, long])


def test_what_is_set_elsewhere_is_refused():
    with pytest.raises(ConfigError, match=r"trainer\.logger is not set here; it is logger=csv"):
        with_short_names(own(trainer__logger=True), [])


def test_callbacks_of_ones_own_are_made_anew_for_each_training():
    node = {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "00:00:01:00"}
    cfg = own(trainer__callbacks={"timer": node})
    first, second = (training_keys(cfg)["trainer"]["callbacks"] for _ in range(2))
    assert isinstance(first[0], Timer)
    assert first[0] is not second[0]
    with pytest.raises(ConfigError, match="is no callback"):
        training_keys(own(trainer__callbacks={"x": {"_target_": "builtins.dict"}}))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"device": 2}, "unknown key 'trainer.device'; did you mean 'devices'"),
        ({"precision": "7"}, "precision='7'"),
        ({"strategy": "ddp_spawn", "accelerator": "cpu", "devices": 2}, "Give ddp, whose"),
        ({"strategy": "fsdp", "accelerator": "cpu", "devices": 2}, ""),
    ],
)
def test_what_the_trainer_cannot_do_is_refused(section, words):
    with pytest.raises(Exception, match=words):
        trainer_of(section)


def test_classes_that_a_file_names_are_not_made(tmp_path, caplog):
    cfg = own(
        optimizer___target_="os.system", scheduler___target_="transformers.pipeline",
        trainer__callbacks={"x": {"_target_": "builtins.exec"}}, trainer__devices=2,
    )  # fmt: skip
    save_config(cfg, tmp_path)
    loaded = load_config(tmp_path)
    assert loaded.optimizer._target_ == "torch.optim.AdamW"
    assert loaded.scheduler._target_ is None
    assert loaded.trainer.callbacks is None
    assert loaded.trainer.devices == 2
    assert caplog.text.count("a file does not make run") == 3


def test_arguments_of_a_known_class_are_kept(tmp_path):
    cfg = own(optimizer={"_target_": "torch.optim.SGD", "momentum": 0.9, "lr": None})
    save_config(cfg, tmp_path)
    assert load_config(tmp_path).optimizer == cfg.optimizer | {"weight_decay": None}
