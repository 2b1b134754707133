"""Mistakes that newcomers make on the command line: each ends as one line that says what to do."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from influcoder_lightning.cli import keys, main
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer
from influcoder_lightning.recipes import valuate
from influcoder_lightning.run.progress import ShowSteps

SMALL = ("train.steps=3", "train.max_length=64", "influence.sketch_dim=64", "influence.code_dim=8")


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A tiny model and rows, as a newcomer may have them; and a finished run on them."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name, n in (("pool", 24), ("query", 4), ("eval", 4)):
        rows = [{"prompt": f"{name} {i}", "response": f"word {i}"} for i in range(n)]
        write_rows(folder / f"{name}.jsonl", rows)
    texts = [(folder / "pool.jsonl").read_text()]
    tokenizer = build_tokenizer(texts, 300, folder / "model")
    build_tiny_llama(folder / "model", tokenizer, hidden_size=16)
    write_rows(folder / "no_response.jsonl", [{"prompt": "a", "answer": "b"}])
    (folder / "empty.jsonl").write_text("")
    (folder / "broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a",\n')
    (folder / "no_run").mkdir()
    settings = folder / "settings" / "experiment"
    settings.mkdir(parents=True)
    (settings / "headless.yaml").write_text("select: {k: 3}\n")
    (settings / "typo.yaml").write_text("# @package _global_\nselect: {kk: 3}\n")
    (settings / "mine.yaml").write_text("# @package _global_\nselect: {k: 7}\nseed: 0\n")
    return folder


@pytest.fixture
def command(made, monkeypatch, capsys):
    """Runs the command in the folder; returns the exit code and the lines on stderr."""
    monkeypatch.chdir(made)
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["influcoder", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().err.strip().splitlines()

    yield run
    root.handlers[:], root.level = before
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def run_folder(made) -> Path:
    """A finished valuation."""
    from hydra import compose, initialize_config_module

    from influcoder_lightning.cli import run_recipe

    GlobalHydra.instance().clear()
    keys_given = [f"data.{name}={made / name}.jsonl" for name in ("pool", "query", "eval")]
    overrides = ["recipe=valuate", f"model.name={made / 'model'}", *keys_given, *SMALL, "seed=5"]
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    (made / "run").mkdir()
    run_recipe("valuate", cfg, made / "run")
    return made / "run"


VALUATE = ("recipe=valuate", "model.name=model", "data.pool=pool.jsonl", *SMALL)
SELF = (*VALUATE, "rank.method=self")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["valuate"], "recipe=valuate"),
        (["recipe", "valuate"], "recipe=<value>"),
        (["--select.k=3"], "without dashes"),
        (["recipe=valuat"], "did you mean 'valuate'?"),
        (["trian.lr=1"], "did you mean 'train.lr'?"),
        (["+mine=1"], "unknown key 'mine'"),
        (["hydra.run.dr=x"], "hydra.run.dr"),
        (["data.pool=a=b"], "Quote a value"),
        (["data.pool=a,b"], "sweep"),
        (["train.lr=[1"], "Quote a value"),
        (["train=[1]"], "train=[1]"),
        (["logger=tensorbord"], "Available options in 'logger'"),
        (["data.pool=pool.jsonl"], "recipe=pipeline"),
        (["select.k=5000"], "quickstart.n_pool=600"),
        (["recipe=valuate", "data.pool=pool.jsonl"], "needs model.name"),
        (["recipe=valuate", "model.name=model"], "needs data.pool"),
        ([*SELF, "data.pool=nowhere.jsonl"], "no such file"),
        ([*SELF, "data.pool=empty.jsonl"], "no rows"),
        ([*SELF, "data.pool=broken.jsonl"], "broken.jsonl:2"),
        ([*SELF, "data.pool=no_response.jsonl"], "response"),
        ([*VALUATE, "data.query=eval.jsonl", "data.eval=eval.jsonl"], "evaluation rows"),
        ([*SELF, "model.name=some/model"], "reachable"),
        ([*SELF, "model.name=./nowhere"], "no such folder"),
        ([*VALUATE, "train.batch_size=big"], "must be a whole number"),
        ([*VALUATE, "rank.method=cosin"], "did you mean 'cosine'?"),
        ([*SELF, "lora.target_modules=[nothing]"], "nothing"),
        ([*VALUATE], "data.query=<file>"),
        ([*VALUATE, "rank.method=icp"], "recipe=icp"),
        ([*VALUATE, "rank.method=less", "data.query=query.jsonl"], "optimizer_features=true"),
        ([*VALUATE, "resume=true"], "train.checkpoint_every_n_steps"),
        (
            [*SELF, "logger=csv", "logger.csv.save_dir=../other"],
            "outside the run folder",
        ),
        ([*SELF, "logger=csv", "logger.csv._target_=os.getcwd"], "logger"),
        ([*VALUATE, "hydra.run.dir=pool.jsonl/run"], "hydra.run.dir"),
        (["recipe=select"], "from=<run folder>"),
        (["recipe=select", "from=no_run"], "no run folder"),
        (["recipe=select", "from=run", "select.k=25"], "24 samples"),
        (["recipe=select", "from=run", "select.k=0"], "at least 1"),
        (["recipe=compare", "from=run", "select.k=3", "data.eval=null"], "needs data.eval"),
        (["recipe=valuate", "from=run", "hydra.run.dir=run"], "influence.overwrite=true"),
        (["recipe=select", "from=run", "hydra.run.dir=run"], "stays as it is"),
        (["--config-dir", "settings", "+experiment=headless"], "# @package _global_"),
        (["--config-dir", "settings", "+experiment=typo"], "did you mean 'select.k'?"),
        (["--config-dir", "settings", "+experiment=nowhere"], "experiment/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_ends_as_one_line(command, run_folder, tmp_path, arguments, words):
    if not any("hydra.run.dir" in argument for argument in arguments):
        arguments = [*arguments, f"hydra.run.dir={tmp_path / 'out'}"]
    code, lines = command(*arguments)
    assert code == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith("influcoder: ")
    assert words in lines[0]


def test_a_launcher_that_is_not_installed(command, monkeypatch):
    monkeypatch.setattr(keys.importlib.util, "find_spec", lambda name: None)
    code, (line,) = command("-m", "hydra/launcher=joblib", "seed=0,1")
    assert code == 1
    assert "pip install" in line


def test_a_logger_that_is_not_installed(command, monkeypatch, tmp_path):
    from lightning.pytorch import loggers

    def missing(*_, **__):
        raise ModuleNotFoundError("`wandb` is not available")

    monkeypatch.setattr(loggers.WandbLogger, "__init__", missing)
    code, (line,) = command(*SELF, "logger=wandb", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert "pip install wandb" in line


def test_a_tokenizer_with_neither_pad_nor_end(command, made, tmp_path):
    import shutil

    shutil.copytree(made / "model", tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps({k: v for k, v in config.items() if k not in ("pad_token", "eos_token")})
    )
    for name in ("special_tokens_map.json",):
        (tmp_path / "model" / name).unlink(missing_ok=True)
    code, (line,) = command(
        *VALUATE,
        "rank.method=self",
        f"model.name={tmp_path / 'model'}",
        f"hydra.run.dir={tmp_path / 'out'}",
    )
    assert code == 1
    assert "neither a pad nor an end token" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "influence.overwrite=true"),
        (["train.checkpoint_every_n_steps=1"], "resume=true"),
    ],
)
def test_an_interruption_says_how_to_go_on(command, monkeypatch, tmp_path, options, words):
    def interrupt(self, trainer, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ShowSteps, "on_train_batch_end", interrupt)
    code, lines = command(*SELF, *options, f"hydra.run.dir={tmp_path}")
    assert code == 130
    assert lines[-1].startswith("influcoder: interrupted.")
    assert words in lines[-1]
    assert f"hydra.run.dir={tmp_path}" in lines[-1]


def test_what_nobody_expected_keeps_its_traceback(command, monkeypatch, tmp_path):
    def broken(*_):
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(valuate, "RECIPE", replace(valuate.RECIPE, run=broken))
    code, lines = command(*VALUATE, f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert lines[0].startswith("Traceback")
    assert "ZeroDivisionError: by design" in lines
    assert "HYDRA_FULL_ERROR=1" in lines[-1]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ZeroDivisionError):
        command(*VALUATE, f"hydra.run.dir={tmp_path}")


def test_settings_of_ones_own_win_over_the_run_that_goes_on(command, run_folder, tmp_path):
    code, lines = command(
        "--config-dir", "settings", "+experiment=mine", "recipe=select", f"from={run_folder}",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert (code, lines) == (0, [])
    from omegaconf import OmegaConf

    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert saved.select.k == 7
    assert saved.seed == 0  # given, though it is the default; the run had 5
    assert len((tmp_path / "selected.jsonl").read_text().splitlines()) == 7


def test_a_full_disk_and_a_full_memory_say_what_to_do(command, monkeypatch, tmp_path):
    for error, words in (
        (OSError(28, "No space left on device"), "make room"),
        (MemoryError(), "train.batch_size"),
    ):

        def broken(*_, error=error):
            raise error

        monkeypatch.setattr(valuate, "RECIPE", replace(valuate.RECIPE, run=broken))
        code, (line,) = command(*VALUATE, f"hydra.run.dir={tmp_path}")
        assert code == 1
        assert words in line
