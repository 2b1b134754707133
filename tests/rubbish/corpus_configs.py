"""Malformed settings: on the command line, and in the config.yaml of a run that is continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus import Case, canary_path, canary_pickle, fifo_of, file_of, folder_of, link_of, sparse_of
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from influcoder_lightning.cli import run_recipe
from influcoder_lightning.errors import ConfigError, InfluCoderError

NAME = "config.yaml"


def run(recipe: str, *overrides: str) -> Any:
    """What the command does; the error that it would print in one line."""
    GlobalHydra.instance().clear()
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=[f"recipe={recipe}", *overrides])
    given = [override.partition("=")[0].lstrip("+~") for override in overrides]
    try:
        return run_recipe(recipe, cfg, Path("run"), given)
    except SystemExit as stop:
        code, error = stop.code, stop.__cause__
    assert code == 1
    assert isinstance(error, Exception)
    raise error


POOL = "data.pool=/no/pool.jsonl"

# Recipe and overrides; the error names the key.
OVERRIDES: dict[tuple[str, ...], str] = {
    ("valuate", POOL, "train.lr=fast"): "train.lr=fast must be a number",
    ("valuate", POOL, "train.lr=nan"): "train.lr=nan must be a number",
    ("valuate", POOL, "train.lr=inf"): "train.lr=inf must be a number",
    ("valuate", POOL, "train.lr=-1"): "train.lr=-1 must be a number of at least 0",
    ("valuate", POOL, "train.lr=true"): "train.lr=True must be a number",
    ("valuate", POOL, "train.lr=null"): "train.lr=null must be a number",
    ("valuate", POOL, "train.lr=[0.1]"): "train.lr=",
    ("valuate", POOL, "train.epochs=inf"): "train.epochs",
    ("valuate", POOL, "train.epochs=-0.5"): "train.epochs",
    ("valuate", POOL, "train.weight_decay=nan"): "train.weight_decay",
    ("valuate", POOL, "train.batch_size=0"): "train.batch_size=0 must be a whole number",
    ("valuate", POOL, "train.batch_size=2.5"): "train.batch_size=2.5 must be a whole number",
    ("valuate", POOL, f"train.batch_size={10**30}"): "train.batch_size=1000.* must be at most",
    ("valuate", POOL, "train.batch_size={a:1}"): "train.batch_size=",
    ("valuate", POOL, f"train.steps={10**30}"): "train.steps",
    ("valuate", POOL, "train.steps=many"): "train.steps=many",
    ("valuate", POOL, "train.accumulate=0"): "train.accumulate",
    ("valuate", POOL, "train.max_length=-5"): "train.max_length",
    ("valuate", POOL, "train.warmup=-1"): "train.warmup",
    ("valuate", POOL, "train.log_csv=maybe"): "train.log_csv=maybe must be true or false",
    ("valuate", POOL, "train.precision=[16]"): "train.precision",
    ("valuate", POOL, "train=5"): "train must hold keys",
    ("valuate", POOL, "train=null"): "train must hold keys",
    ("valuate", POOL, "lora=1"): "lora must hold keys",
    ("valuate", POOL, "lora.r=0"): "lora.r=0",
    ("valuate", POOL, "lora.r=abc"): "lora.r=abc",
    ("valuate", POOL, f"lora.r={10**12}"): "lora.r=1000000000000 must be at most",
    ("valuate", POOL, "lora.dropout=half"): "lora.dropout",
    ("valuate", POOL, "lora.target_modules=7"): "lora.target_modules",
    ("valuate", POOL, "seed=-1"): "seed=-1",
    ("valuate", POOL, f"seed={2**32}"): "seed=4294967296 must be at most",
    ("valuate", POOL, "seed=one"): "seed=one",
    ("valuate", POOL, "seeds=3"): "seeds=3 must be a list",
    ("valuate", POOL, "seeds=[1.5]"): "seeds=.* must be a list",
    ("valuate", POOL, "seeds=[-1]"): "seeds=.* must be a list",
    ("valuate", POOL, "influence.sketch_dim=1000000000000"): "influence.sketch_dim",
    ("valuate", POOL, "influence.code_dim=0"): "influence.code_dim",
    ("valuate", POOL, "influence.co_train=1"): "influence.co_train=1 must be true or false",
    ("valuate", POOL, "influence.overwrite=perhaps"): "influence.overwrite",
    ("valuate", POOL, "influence.projector=[a]"): "influence.projector",
    ("valuate", POOL, "influence.text_encoder=5"): "influence.text_encoder=5 must be text",
    ("valuate", POOL, "influence.refresh_queries_every_n_steps=1.5"): "refresh_queries",
    ("valuate", POOL, "mode=5"): "mode=5 must be text",
    ("valuate", POOL, "mode=tuned", "model.name=/no"): "mode=tuned is neither",
    ("valuate", POOL, "rank.method=[cosine]"): "rank.method",
    ("valuate", POOL, "rank.method=../../cosine"): "unknown ranking method",
    ("valuate", POOL, "model.name=5"): "model.name=5 must be text",
    ("valuate", POOL, "model.adapter=[a]"): "model.adapter",
    ("valuate", POOL, "model.template=5"): "model.template=5 must be text",
    ("valuate", "data.pool=5"): "data.pool=5 must be text.* data.pool=./5",
    ("valuate", "data.pool=[a,b]"): "a: no such file",
    ("valuate", "data.pool={a:b}"): "data.pool",
    ("valuate", "data.pool=true"): "data.pool=True must be text",
    ("valuate", "data.pool=???"): "cannot be resolved: Missing",
    ("valuate", "data.pool=${nothing}"): "cannot be resolved: Interpolation key 'nothing'",
    ("valuate", "data.pool=${data.query}", "data.query=${data.pool}"): "cannot be resolved",
    ("valuate", "data.pool=${exec:ls}"): "cannot be resolved: Unsupported interpolation",
    ("valuate", "data.pool='~nobody_of_that_name/x'"): "data.pool=~nobody",
    ("valuate", "data.pool=/dev/zero"): "no regular file",
    ("valuate", "data.pool=/proc/self/mem"): "/proc/self/mem: cannot be read",
    ("valuate", "data.pool='a\udcff'"): "not UTF-8",
    ("valuate", "data.pool='a\0b'"): "NUL",
    ("valuate", "data=x"): "data must hold keys",
    ("select", "from=5"): "from=5 must be text",
    ("select", "from=[a]"): "from=",
    ("select", "from=/dev/null"): "no run folder",
    ("select", "from=/no", "select.k=1.5"): "select.k=1.5",
    ("select", "from=/no", "select.threshold=x"): "select.threshold=x",
    ("select", "from=/no", "select.strategy=[a]"): "select.strategy",
    ("select", "from=/no", "select=1"): "select must hold keys",
    ("agreement", "a=[]", "b=[]"): "no score file",
    ("agreement", "a=5", "b=6"): "no such file",
    ("agreement", "a={x:1}", "b=6"): "no such file",
    ("agreement", "a=[[x]]", "b=[y]"): "no such file",
    ("agreement", "a='~nobody_of_that_name'", "b=y"): "a=~nobody",
    ("agreement", "a=x", "b=y", "agreement.ks=5"): "agreement.ks",
    ("agreement", "a=x", "b=y", "agreement.only_common=5"): "agreement.only_common",
    ("icp", POOL, "data.query=/no", "icp.n_queries=x"): "icp.n_queries=x",
    ("icp", POOL, "data.query=/no", "icp.batch_tokens=0"): "icp.batch_tokens",
    ("icp", POOL, "data.query=/no", "icp.score=best"): "best",
    ("select", "from=/no", "select.max_similarity=x"): "select.max_similarity=x",
    ("loop", POOL, "data.query=/no", "data.eval=/no", "loop=1"): "loop must hold keys",
    ("loop", POOL, "data.query=/no", "data.eval=/no", "loop.share=2"): "between 0 and 1",
    ("loop", POOL, "data.query=/no", "data.eval=/no", "loop.share=nan"): "loop.share=nan",
    ("loop", POOL, "data.query=/no", "data.eval=/no", "loop.rounds=0.5"): "loop.rounds=0.5",
    ("loop", POOL, "data.query=/no", "data.eval=/no", "loop.action=[a]"): "loop.action",
    ("loop", POOL, "data.query=/no", "data.eval=/no", "loop.held_out=-1"): "loop.held_out=-1",
    ("retrain", POOL, "retrain.lr=fast"): "retrain.lr=fast",
    ("quickstart", "quickstart.n_pool=1000000000000"): "quickstart.n_pool",
    ("quickstart", "quickstart.hidden_size=wide"): "quickstart.hidden_size",
    ("quickstart", "quickstart.skill=3"): "quickstart.skill=3 must be text",
    ("fidelity", POOL, "data.query=/no", "fidelity.n_pool=5"): "fidelity.n_pool must hold keys",
    ("fidelity", POOL, "data.query=/no", "fidelity.states=warm"): "fidelity.states",
    ("fidelity", POOL, "data.query=/no", "fidelity.states=[hot]"): "give fresh, warm or both",
    ("fidelity", POOL, "data.query=/no", "fidelity.distil.lr=x"): "fidelity.distil.lr",
}


def _tagged(folder: Path) -> bytes:
    """YAML that calls a function as soon as it is loaded by an unsafe loader."""
    return f"data: !!python/object/apply:os.mknod [{canary_path(folder)}]\n".encode()


_LAUGHS = b"".join(
    f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n".encode() if n else b"x0: &x0 [a]\n"
    for n in range(13)
)

SAVED: dict[str, tuple[Any, str]] = {
    "empty": (b"", "holds no keys"),
    "a list": (b"[1, 2]", "holds no keys"),
    "text": (b"hello", "holds no keys"),
    "another program's": (b"name: x\nversion: 1\n", "holds no keys"),
    "no YAML": (b"data: [1", "cannot be read as YAML"),
    "tabs": (b"data:\n\tpool: x\n", "cannot be read as YAML"),
    "invalid UTF-8": (b"data: {pool: \xff}\n", "cannot be read as YAML"),
    "UTF-16": ("data: {}\n".encode("utf-16"), "cannot be read as YAML"),
    "NUL bytes": (b"data: {pool: a\0b}\n", "cannot be read as YAML"),
    "an escaped NUL": (b'data: {pool: "a\\0b"}\n', "data.pool.* NUL"),
    "a lone surrogate": (b'data: {pool: "\\ud800"}\n', "not UTF-8|cannot be read"),
    "a key twice": (b"data: {}\ndata: {}\n", "cannot be read as YAML"),
    "a pickle": (canary_pickle, "cannot be read as YAML|holds no keys"),
    "a call in a tag": (_tagged, "cannot be read as YAML"),
    "a deep flow": (b"data: " + b"[" * 100_000, "nested more than|nesting depth"),
    "a deep mapping": (b"data: " + b"{a: " * 5000, "nested more than|nesting depth"),
    "a million laughs": (_LAUGHS + b"data: *x12\n", "alias"),
    "an alias to itself": (b"data: &a [*a]\n", "alias"),
    "too long": (b"# " + b"x" * 2**23, "more than"),
    "a section that is a number": (b"data: {}\ntrain: 5\n", "train must hold keys"),
    "a section that is a list": (b"data: []\n", "data must hold keys"),
    "a section that is null": (b"data: {}\nlora: null\n", "lora must hold keys"),
    "a value that is a section": (b"data: {pool: {a: 1}}\n", "data.pool"),
    "facts that are a list": (b"data: {}\nfacts: [1]\n", "facts must hold keys"),
    "from that is a list": (b"data: {}\nfrom: [a]\n", "from="),
    "from itself": (b"data: {}\nfrom: ../given\n", "no ranking.csv there"),
    "a number that is text": (b"train: {lr: fast}\n", "train.lr=fast"),
    "a number beyond doubles": (b"train: {lr: 1e999}\n", "train.lr"),
    "a rank of 10^12": (b"lora: {r: 1000000000000}\nmodel: {}\n", "lora.r"),
    "seeds of text": (b"data: {}\nseeds: [a]\n", "seeds="),
    "a value that is missing": (b'data: {pool: "???"}\n', r"data.pool has no value"),
    "a date": (b"data: {pool: 2024-01-01}\n", "given"),
    "binary": (b"data: {pool: !!binary aGk=}\n", "data.pool|cannot be read"),
    "a set": (b"data: !!set {a}\n", "cannot be read|must hold keys|data"),
    "an int as key": (b"data: {1: 2}\n", "no ranking.csv"),
    "no ranking beside it": (b"data: {pool: x}\n", "no ranking.csv there"),
    "a byte order mark": (b"\xef\xbb\xbfdata: {pool: x}\n", "no ranking.csv there"),
    "${...} in a text": (b'data: {pool: "${oc.env:HOME}/x"}\n', "no ranking.csv there"),
}

SPECIAL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a folder": (folder_of(NAME), "a folder"),
    "a FIFO": (fifo_of(NAME), "no regular file"),
    "a link to itself": (link_of(NAME, NAME), "cannot be opened"),
    "a link to /dev/zero": (link_of(NAME, "/dev/zero"), "no regular file"),
    "10^12 bytes": (sparse_of(NAME, 10**12, b"data: {}\n"), "more than"),
}

GOOD = b"data: {pool: POOL}\nrank: {method: cosine}\nmodel: {name: /no/model}\nselect: {k: 1}\n"

# What else a run folder has, when it is continued by `select`.
BESIDE: dict[str, tuple[dict[str, Callable[[Path], Path]], str]] = {
    "a ranking that is a FIFO": (
        {"ranking.csv": fifo_of("ranking.csv")},
        "pool|no regular file",
    ),
    "a ranking that is a folder": ({"ranking.csv": folder_of("ranking.csv")}, "pool|a folder"),
    "a pool that is a pickle": (
        {
            "ranking.csv": file_of("ranking.csv", b"sample_id,score\na,1\n"),
            "pool.jsonl": file_of("pool.jsonl", canary_pickle),
        },
        "pool.jsonl:1: ",
    ),
    "a pool that names another folder's file": (
        {
            "ranking.csv": file_of("ranking.csv", b"sample_id,score\na,1\n"),
            "pool.jsonl": link_of("pool.jsonl", "../../../nothing"),
        },
        "no such file",
    ),
    "a store that is a FIFO": (
        {
            "ranking.csv": file_of("ranking.csv", b"sample_id,score\na,1\n"),
            "influence": fifo_of("influence"),
        },
        "pool.jsonl: no such file",
    ),
}


def _run_folder(files: dict[str, Callable[[Path], Path]]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pool = str(folder / "pool.jsonl").encode()
        (folder / NAME).write_bytes(GOOD.replace(b"POOL", pool))
        for write in files.values():
            write(folder)
        return folder

    return make


def _parent(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda folder: make(folder).parent


def _select(folder: Path) -> Any:
    return run("select", f"from={folder}")


CASES = [
    *(
        Case(
            "command line",
            " ".join(overrides).encode("unicode_escape").decode(),
            lambda folder, overrides=overrides: overrides,
            lambda made: run(*made),
            words,
            InfluCoderError,
        )
        for overrides, words in OVERRIDES.items()
    ),
    *(
        Case(
            "config.yaml",
            name,
            _parent(file_of(NAME, content)),
            _select,
            words,
            ConfigError,
            where="given",
        )
        for name, (content, words) in SAVED.items()
    ),
    *(
        Case("config.yaml", name, _parent(make), _select, words, ConfigError, where=NAME)
        for name, (make, words) in SPECIAL.items()
    ),
    *(
        Case("run folder", name, _run_folder(files), _select, words)
        for name, (files, words) in BESIDE.items()
    ),
]
