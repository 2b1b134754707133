"""What is said about arguments that are no keys of ours, and about their order."""

from __future__ import annotations

import shlex

import pytest
from hydra._internal.utils import get_args_parser

from influcoder_lightning.cli.keys import _ALIASES, _MAIN_KEYS, all_keys, refuse_unknown_arguments
from influcoder_lightning.errors import ConfigError


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("train.learning_rate=1e-4", "'train.lr'"),
        ("+learning_rate=1e-4", "'train.lr'"),
        ("lr=1e-4", "'train.lr'"),
        ("model_name=gpt2", "'model.name'"),
        ("model.model_name_or_path=gpt2", "'model.name'"),
        ("data.dataset=a.jsonl", "'data.pool'"),
        ("train_file=a.jsonl", "'data.pool'"),
        ("data.validation=a.jsonl", "'data.eval'"),
        ("top_k=5", "'select.k'"),
        ("output_dir=runs/a", "'hydra.run.dir'"),
        ("method=tracin", "'rank.method'"),
        ("train.num_epochs=2", "'train.epochs'"),
        ("lora.rank=4", "'lora.r'"),
        # a slip of the keyboard is a slip, though another key is called so too
        ("retrian.lr=1e-4", "'retrain.lr'"),
        ("fidelty.distil.batch=1", "'train.batch_size'"),
        # a section that is taken for its main key
        ("model=runs/first/model", "model.name=runs/first/model?"),
        ("data=pool.jsonl", "data.pool=pool.jsonl?"),
        ("rank=tracin", "rank.method=tracin?"),
        ("select=5", "select.k=5?"),
    ],
)
def test_what_a_key_is_called_elsewhere(argument, meant):
    with pytest.raises(ConfigError) as refused:
        refuse_unknown_arguments([argument])
    assert f"did you mean {meant}" in str(refused.value)


def test_the_names_that_are_meant_exist():
    known = {*all_keys(), "hydra.run.dir"}
    assert {*_ALIASES.values(), *_MAIN_KEYS.values()} <= known


@pytest.mark.parametrize("argument", ["model={name: a}", "lora.r=4", "~model.adapter"])
def test_what_is_right_is_let_through(argument):
    refuse_unknown_arguments([argument])


ORDERS = [
    "--cfg job recipe=select select.k=3",
    "recipe=select select.k=3 --cfg job -p select",
    "--cfg job seed=1 seed=2 --resolve",
    "recipe=select --cfg job select.k=3",
    "recipe=select --multirun select.k=3,4",
    "-m recipe=select --config-dir settings select.k=3",
    "seed=1 --cfg job -p select seed=1",
]


@pytest.mark.parametrize("line", ORDERS)
def test_keys_stand_together(line):
    """Refused where Hydra's own parser would be, with an order that it takes."""
    arguments = line.split()
    try:
        get_args_parser().parse_args(arguments)
    except SystemExit:
        with pytest.raises(ConfigError, match="keys stand together") as refused:
            refuse_unknown_arguments(arguments)
        better = shlex.split(str(refused.value).partition(": influcoder ")[2])
        assert sorted(better) == sorted(arguments)
        get_args_parser().parse_args(better)
        refuse_unknown_arguments(better)
    else:
        refuse_unknown_arguments(arguments)


def test_hydras_option_that_unpickles_a_file_is_refused():
    with pytest.raises(ConfigError, match="unknown option '--experimental-rerun'"):
        refuse_unknown_arguments(["--experimental-rerun", "run/.hydra/config.pickle"])
