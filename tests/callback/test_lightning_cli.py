"""The callback from a configuration file: LightningCLI, and queries that the datamodule brings."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import yaml
from conftest import FineTuning, loader, tiny_peft, tokens, trainer
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from influcoder_lightning import InfluenceCallback, InfluenceStore
from influcoder_lightning.data.tiny_model import build_tokenizer

SMALL = {"sketch_dim": 64, "code_dim": 8, "keep_sketches": True}


class Small(FineTuning):
    """A module that a file can describe."""

    def __init__(self, rate: float = 1e-2) -> None:
        torch.manual_seed(3)
        super().__init__(tiny_peft(), rate)


class Rows(LightningDataModule):
    def __init__(self, n: int = 8) -> None:
        super().__init__()
        self.n = n

    def train_dataloader(self):
        return loader(tokens(self.n, seed=1))

    def query_dataloader(self):
        return loader(tokens(3, seed=2))


def mean_of_samples(batch):
    """Weights of a loss that averages over samples."""
    return torch.full((len(batch["labels"]),), 1 / len(batch["labels"]))


def parsed(*arguments: str) -> LightningCLI:
    return LightningCLI(Small, Rows, run=False, args=list(arguments), save_config_callback=None)


def described(**arguments) -> str:
    node = {"class_path": "influcoder_lightning.InfluenceCallback", "init_args": arguments}
    return yaml.safe_dump({"trainer": {"callbacks": [node]}})


def fitted(folder, module, datamodule=None, **options) -> InfluenceStore:
    callback = InfluenceCallback(str(folder), **SMALL, **options)
    run = trainer(folder, [callback])
    if datamodule is None:
        run.fit(module, loader(tokens(8, seed=1)))
    else:
        run.fit(module, datamodule=datamodule)
    return InfluenceStore(folder)


# ----------------------------------------------------------------------------- LightningCLI


def test_a_file_describes_the_callback_and_is_written_back(tmp_path):
    arguments = {
        "dirpath": str(tmp_path / "store"),
        "tokenizer": "some/folder",
        "loss_reduction": f"{__name__}.mean_of_samples",
        "projector": "factored",
        "refresh_queries_every_n_steps": 3,
        "labels_key": 1,
        "prog_bar": True,
    }
    (tmp_path / "given.yaml").write_text(described(**arguments))
    cli = parsed("--config", str(tmp_path / "given.yaml"))
    (callback,) = [c for c in cli.trainer.callbacks if isinstance(c, InfluenceCallback)]
    assert callback.loss_reduction is mean_of_samples
    assert callback.options.tokenizer == "some/folder"
    assert callback.options.projector == "factored"
    written = cli.parser.dump(cli.config)
    again = yaml.safe_load(written)["trainer"]["callbacks"][0]["init_args"]
    assert again.items() >= arguments.items()
    (tmp_path / "written.yaml").write_text(written)
    repeated = parsed("--config", str(tmp_path / "written.yaml"))
    assert repeated.parser.dump(repeated.config) == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"projector": "magic"}, "countsketch"),
        ({"on_error": "ignore"}, "warn"),
        ({"code_dim": "wide"}, "int"),
        ({"dirpth": "x"}, "dirpth"),
        ({"loss_reduction": "mean"}, "choose"),
        ({"loss_reduction": "nowhere.weights"}, "cannot be imported"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path, capsys, arguments, words):
    (tmp_path / "given.yaml").write_text(described(**arguments))
    with pytest.raises((SystemExit, ValueError)) as stop:
        parsed("--config", str(tmp_path / "given.yaml"))
    assert words in capsys.readouterr().err + str(stop.value)


def test_a_fit_from_a_file(tmp_path):
    (tmp_path / "given.yaml").write_text(described(dirpath=str(tmp_path / "store"), **SMALL))
    options = ["--trainer.max_epochs=1", "--trainer.logger=false", "--trainer.accelerator=cpu"]
    options += ["--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"]
    cli = parsed("--config", str(tmp_path / "given.yaml"), *options, "--data.n=6")
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    store = InfluenceStore(tmp_path / "store")
    assert store.n_rows == 6
    assert len(store.query_ids) == 3


def test_metrics_are_in_the_progress_bar_where_asked_for(tmp_path):
    for asked in (False, True):
        callback = InfluenceCallback(
            str(tmp_path / str(asked)),
            query_dataloader=loader(tokens(3, seed=2)),
            refresh_queries_every_n_steps=1,
            prog_bar=asked,
            **SMALL,
        )
        run = trainer(tmp_path, [callback], log_every_n_steps=1)
        run.fit(Small(), loader(tokens(8, seed=1)))
        shown = {name for name in run.progress_bar_metrics if name.startswith("influcoder/")}
        assert shown >= {"influcoder/drift", "influcoder/step_time_share"} if asked else not shown
        assert "influcoder/drift" in run.callback_metrics


# ----------------------------------------------------------------------------- queries


class WithQueries(Small):
    def query_dataloader(self):
        return loader(tokens(2, seed=9))


def test_queries_of_the_datamodule_are_those_given_by_hand(tmp_path):
    given = fitted(tmp_path / "given", Small(), query_dataloader=loader(tokens(3, seed=2)))
    hooked = fitted(tmp_path / "hooked", Small(), Rows())
    np.testing.assert_array_equal(hooked.query_sketches(), given.query_sketches())
    np.testing.assert_array_equal(hooked.sketches(), given.sketches())


def test_whose_queries_count(tmp_path):
    """An argument before the datamodule's before the module's."""
    three = loader(tokens(5, seed=4))
    assert len(fitted(tmp_path / "a", WithQueries(), Rows(), query_dataloader=three).query_ids) == 5
    assert len(fitted(tmp_path / "b", WithQueries(), Rows()).query_ids) == 3
    assert len(fitted(tmp_path / "c", WithQueries()).query_ids) == 2
    assert len(fitted(tmp_path / "d", Small()).query_ids) == 0


def test_a_hook_that_returns_none_means_no_queries(tmp_path):
    class Without(Small):
        def query_dataloader(self):
            return None

    assert len(fitted(tmp_path, Without()).query_ids) == 0


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (lambda self: 3, "is an int, not batches"),
        (lambda self: "queries.jsonl", "is a str, not batches"),
        (lambda self: (batch for batch in []), "read once"),
        ([1, 2], "must be a method"),
    ],
)
def test_a_hook_that_returns_something_odd(tmp_path, hook, words):
    odd = type("Odd", (Small,), {"query_dataloader": hook})
    with pytest.raises(MisconfigurationException, match=words) as error:
        fitted(tmp_path, odd())
    assert "Odd.query_dataloader" in str(error.value)


def test_a_hook_that_draws_leaves_the_training_as_it_is(tmp_path):
    class Draws(LightningDataModule):
        def __init__(self, draws):
            super().__init__()
            self.draws = draws

        def train_dataloader(self):
            return loader(tokens(8, seed=1), shuffle=True)

        def query_dataloader(self):
            if self.draws:
                random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
            return loader(tokens(3, seed=2), shuffle=False)

    plain = Small()
    torch.manual_seed(5)
    trainer(tmp_path).fit(plain, datamodule=Draws(False))
    for name, draws in (("hook", False), ("drawing hook", True), ("by hand", None)):
        module = Small()
        torch.manual_seed(5)
        options = {"query_dataloader": loader(tokens(3, seed=2))} if draws is None else {}
        fitted(tmp_path / name, module, Draws(bool(draws)), **options)
        assert module.losses == plain.losses, name


def test_a_tokenizer_by_its_folder(tmp_path):
    tokenizer = build_tokenizer(["some words to learn", "and more words"], 300, tmp_path / "words")
    tokenizer.save_pretrained(tmp_path / "words")
    queries = loader(tokens(3, seed=2))
    by_name = fitted(
        tmp_path / "name", Small(), query_dataloader=queries, tokenizer=str(tmp_path / "words")
    )
    by_hand = fitted(tmp_path / "hand", Small(), query_dataloader=queries, tokenizer=tokenizer)
    assert by_name.query_texts() == by_hand.query_texts() is not None
    with pytest.raises(Exception, match=r"tokenizer=.*no such folder"):
        fitted(tmp_path / "none", Small(), tokenizer=str(tmp_path / "none"))
