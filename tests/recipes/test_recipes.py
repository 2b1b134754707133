"""Every recipe in its smallest form: the files it writes, the chain `from=`, and its errors."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from running import TINY, error_of, run

from influcoder_lightning import InfluenceStore, Ranking, load_rows, write_jsonl
from influcoder_lightning.recipes.arms import run_arms
from influcoder_lightning.run.config import RECIPES
from influcoder_lightning.run.materials import Materials

K, N, M = 10, 60, 6


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A finished quickstart; every other test continues it."""
    folder = tmp_path_factory.mktemp("recipes") / "base"
    (folder.parent / "result").write_text(str(run("quickstart", folder, *TINY, drawn=True)))
    return folder


def csv_ids(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["sample_id"] for row in csv.DictReader(file)]


def test_quickstart_writes_every_file_of_the_contract(base):
    result = float((base.parent / "result").read_text())
    config = OmegaConf.load(base / "config.yaml")
    assert config.versions.torch
    assert config.select.k == K
    store = InfluenceStore(base)
    assert store.n_rows == N
    assert len(store.windows) == 3
    with (base / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["sample_id", "score", "rank"]
    assert [int(row["rank"]) for row in rows] == list(range(1, N + 1))
    pool = {row["id"]: row for row in load_rows(base / "data" / "pool.jsonl")}
    chosen = [json.loads(line) for line in (base / "selected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in chosen] == csv_ids(base / "ranking.csv")[:K]
    for row in chosen:
        assert isinstance(row.pop("influence_score"), float)
        assert row == pool[row["id"]]
    comparison = json.loads((base / "comparison.json").read_text())
    assert (comparison["k"], comparison["steps"], comparison["seeds"]) == (K, 2, 3)
    assert set(comparison["arms"]) == {"base", "top_k", "random_k", "bottom_k", "full"}
    for name, arm in comparison["arms"].items():
        assert len(arm["eval_loss"]) == (1 if name == "base" else 3)
        assert (arm["ci95"] is None) == (name == "base")
    assert result == pytest.approx(comparison["arms"]["top_k"]["mean"])
    for name in ("comparison.csv", "comparison.png", "ranking.png", "report.html", "planted.json"):
        assert (base / name).stat().st_size > 0
    assert (base / "adapter" / "adapter_config.json").is_file()
    report = (base / "report.md").read_text()
    for word in ("comparison.png", "ranking.png", "random\\_k", "chance"):
        assert word in report
    planted = json.loads((base / "planted.json").read_text())
    assert 0 <= planted["skill_share_top_k"] <= 1
    assert planted["skill_share_chance"] == pytest.approx(1 / 6, abs=1e-4)


def test_a_short_run_ranks_what_it_reached_and_says_so(tmp_path, caplog):
    run("quickstart", tmp_path, *TINY, "train.steps=2", "seeds=[0]")
    assert len(csv_ids(tmp_path / "ranking.csv")) == 16
    assert "44 of 60 pool samples have no score" in caplog.text


def test_chain_of_steps(base, tmp_path):
    chosen, trained, compared = tmp_path / "chosen", tmp_path / "trained", tmp_path / "compared"
    run("select", chosen, f"from={base}", "select.k=5")
    assert len(load_rows(chosen / "selected.jsonl")) == 5
    assert OmegaConf.load(chosen / "config.yaml").data.pool == str(base / "data" / "pool.jsonl")

    loss = run("retrain", trained, f"from={chosen}")
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert metrics["n_samples"] == 5
    assert metrics["eval_loss"]["after"] == loss
    assert metrics["eval_loss"]["before"] != loss
    assert (trained / "adapter" / "adapter_model.safetensors").is_file()

    # Through `chosen` to the ranking and store of `base`, ranked anew by another method.
    run("compare", compared, f"from={chosen}", "rank.method=tracin", "seeds=[3,4]")
    comparison = json.loads((compared / "comparison.json").read_text())
    assert comparison["k"] == 5
    assert comparison["seeds"] == 2
    assert csv_ids(compared / "ranking.csv") != csv_ids(base / "ranking.csv")


def test_pipeline_equals_the_steps_of_the_quickstart(base, tmp_path):
    result = run("pipeline", tmp_path, f"from={base}", "model.template=null")
    assert (tmp_path / "ranking.csv").read_text() == (base / "ranking.csv").read_text()
    assert result == pytest.approx(float((base.parent / "result").read_text()))
    assert {"report.html", "report.md"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("strategy", ["bottom_k", "random", "diverse", "threshold", "per_group"])
def test_select_strategies(base, tmp_path, strategy):
    if strategy in ("bottom_k", "random", "diverse"):
        options = [f"select.strategy={strategy}"]
        expected = K
    elif strategy == "threshold":
        options = ["select.strategy=threshold", "select.k=null", "select.threshold=-2"]
        expected = N
    else:
        options = ["select.strategy=per_group", "select.k=null", "select.quota=2"]
        expected = 12
    run("select", tmp_path, f"from={base}", *options)
    rows = load_rows(tmp_path / "selected.jsonl")
    assert len(rows) == expected


def test_valuate_frozen_with_a_trained_adapter(base, tmp_path):
    adapter = base / "adapter"
    run("valuate", tmp_path, f"from={base}", "mode=frozen", f"model.adapter={adapter}")
    store = InfluenceStore(tmp_path)
    assert store.n_rows == N
    assert len(store.windows) == 1
    assert len(csv_ids(tmp_path / "ranking.csv")) == N
    for name in ("config.yaml", "ranking.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 0


def test_valuate_without_queries_or_ids(base, tmp_path):
    rows = [
        {"prompt": row["prompt"], "response": row["response"]}
        for row in load_rows(base / "data" / "pool.jsonl")
    ]
    write_jsonl([*rows, {"prompt": "nothing", "response": ""}], tmp_path / "pool.jsonl")
    run(
        "valuate",
        tmp_path / "run",
        f"from={base}",
        f"data.pool={tmp_path / 'pool.jsonl'}",
        "data.query=null",
        "rank.method=self",
        "train.log_csv=true",
    )
    # A row with an empty response still has its end token.
    assert set(csv_ids(tmp_path / "run" / "ranking.csv")) == {str(i) for i in range(N + 1)}
    assert "train_loss" in (tmp_path / "run" / "metrics.csv").read_text()


def test_score_new_queries_leaves_the_run_as_it_was(base, tmp_path):
    rows = [
        {"prompt": f"Say in Zumi: {word}", "response": word}
        for word in ("apple", "bird", "boat", "book")
    ]
    write_jsonl(rows, tmp_path / "new.jsonl")
    before = (base / "influence" / "influence.h5").read_bytes()
    folder = tmp_path / "run"
    run("score", folder, f"from={base}", f"queries={tmp_path / 'new.jsonl'}")
    assert (base / "influence" / "influence.h5").read_bytes() == before
    assert len(InfluenceStore(folder).query_ids) == M + 4
    assert sorted(csv_ids(folder / "ranking.csv")) == sorted(csv_ids(base / "ranking.csv"))
    # The same queries give the same ranking as in the run itself.
    again = tmp_path / "again"
    old = [
        {k: row[k] for k in ("prompt", "response")} for row in load_rows(base / "data/query.jsonl")
    ]
    write_jsonl(old, tmp_path / "old.jsonl")
    run("score", again, f"from={base}", f"queries={tmp_path / 'old.jsonl'}")
    expected = Ranking.load(base / "ranking.csv")
    got = Ranking.load(again / "ranking.csv").align(expected.sample_ids)
    assert got.scores == pytest.approx(expected.scores, abs=2e-3)


def test_score_new_samples_by_the_text_tower(base, tmp_path):
    rows = [{"prompt": f"Say in Zumi: {w} boat", "response": f"{w} kel"} for w in ("sun", "oak")]
    write_jsonl(rows, tmp_path / "new.jsonl")
    run("score", tmp_path / "run", f"from={base}", f"data.pool={tmp_path / 'new.jsonl'}")
    assert sorted(csv_ids(tmp_path / "run" / "ranking.csv")) == ["0", "1"]
    assert csv_ids(tmp_path / "run" / "confidence.csv") == csv_ids(tmp_path / "run/ranking.csv")
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").rank.method == "encoder"


def test_run_arms_takes_arms_of_ones_own_and_repeats(base):
    materials = Materials(OmegaConf.load(base / "config.yaml"), "compare")
    ids = materials.pool.ids
    arms = {"mine": [ids[:4], ids[4:8]], "same": [ids[:4], ids[4:8]]}
    losses = run_arms(arms, materials, seeds=[0, 1], steps=2)
    assert set(losses) == {"base", "mine", "same"}
    # Taking a LoRA off again leaves no trace in the base model.
    assert losses["mine"] == losses["same"]
    assert losses["mine"][0] != losses["base"][0]


# ---------------------------------------------------------------------------------- errors


@pytest.fixture
def rows(base):
    return load_rows(base / "data" / "pool.jsonl")


def test_unknown_method(base, tmp_path, capsys):
    message = error_of(capsys, "valuate", tmp_path, f"from={base}", "rank.method=cosin")
    assert "did you mean 'cosine'?" in message
    assert not (tmp_path / "influence").exists()


@pytest.mark.parametrize("recipe", ["select", "compare", "pipeline"])
def test_k_larger_than_the_pool(base, tmp_path, capsys, recipe):
    message = error_of(capsys, recipe, tmp_path, f"from={base}", "select.k=61")
    assert "61" in message
    assert "60 samples" in message


def test_empty_pool(base, tmp_path, capsys):
    (tmp_path / "pool.jsonl").write_text("")
    message = error_of(
        capsys, "valuate", tmp_path, f"from={base}", f"data.pool={tmp_path / 'pool.jsonl'}"
    )
    assert "pool.jsonl: no rows" in message


def test_broken_line_names_file_and_line(base, tmp_path, capsys):
    path = tmp_path / "pool.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a", \n')
    message = error_of(capsys, "valuate", tmp_path, f"from={base}", f"data.pool={path}")
    assert f"{path}:2" in message


def test_query_and_eval_overlap(base, tmp_path, capsys):
    query = base / "data" / "query.jsonl"
    message = error_of(capsys, "pipeline", tmp_path, f"from={base}", f"data.eval={query}")
    assert "6 query row(s) are also evaluation rows" in message


def test_new_queries_and_eval_overlap(base, tmp_path, capsys):
    held_out = base / "data" / "eval.jsonl"
    message = error_of(capsys, "score", tmp_path, f"from={base}", f"queries={held_out}")
    assert "also evaluation rows" in message


def test_ranking_of_another_pool(base, tmp_path, rows, capsys):
    write_jsonl(rows[:-1], tmp_path / "pool.jsonl")
    message = error_of(
        capsys, "select", tmp_path, f"from={base}", f"data.pool={tmp_path / 'pool.jsonl'}"
    )
    assert "is not the pool that" in message


def test_ranking_file_with_other_ids(base, tmp_path, capsys):
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "config.yaml").write_text((base / "config.yaml").read_text())
    text = (base / "ranking.csv").read_text()
    (earlier / "ranking.csv").write_text(text.replace("pool-", "stranger-"))
    message = error_of(capsys, "select", tmp_path / "run", f"from={earlier}")
    assert "60 ids that the pool does not have" in message


def test_existing_store_is_not_replaced(base, capsys):
    message = error_of(capsys, "quickstart", base, *TINY)
    assert "influence.overwrite=true" in message


@pytest.mark.parametrize(
    ("name", "words"), [("/no/encoder", "no such folder"), ("no", "no sentence-transformers model")]
)
def test_unknown_text_encoder(base, tmp_path, capsys, name, words):
    pytest.importorskip("sentence_transformers")
    message = error_of(
        capsys, "valuate", tmp_path, f"from={base}", f"influence.text_encoder={name}"
    )
    assert words in message


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("select", [], "give its folder, `from="),
        ("valuate", [], "needs data.pool"),
        ("valuate", ["data.pool=/no/pool.jsonl"], "no such file"),
        ("select", ["from=/no/run"], "is no run folder"),
        ("valuate", ["from=BASE", "model.name=/no/model"], "no such folder"),
        ("valuate", ["from=BASE", "mode=frozn"], "neither training nor frozen"),
        ("valuate", ["from=BASE", "model.adapter=/no", "mode=frozen"], "no adapter_config.json"),
        ("valuate", ["from=BASE", "model.adapter=/no"], "no adapter_config.json"),
        ("valuate", ["from=BASE", "train.lr=fast"], "train.lr=fast must be a number"),
        ("valuate", ["from=BASE", "train.batch_size=0"], "at least 1"),
        ("valuate", ["from=BASE", "train.precision=sharp"], "train.precision='sharp'"),
        ("valuate", ["from=BASE", "lora.target_modules=[none]"], "none"),
        ("valuate", ["from=BASE", "influence.projector=magic"], "magic"),
        ("valuate", ["from=BASE", "train.max_length=8"], "max_length=8"),
        ("compare", ["from=BASE", "data.eval=null"], "needs data.eval"),
        ("compare", ["from=BASE", "seeds=[1,1]"], "each once"),
        ("select", ["from=BASE", "select.strategy=best"], "unknown selection strategy"),
        ("select", ["from=BASE", "select.k=many"], "select.k=many must be a whole number"),
        ("score", ["from=BASE"], "needs something new"),
        ("score", ["from=BASE", "data.pool=NEW", "rank.method=cosine"], "rank.method=encoder"),
        ("retrain", ["from=NEVER"], "recipe=select"),
    ],
)
def test_errors_are_one_line(base, tmp_path, capsys, recipe, overrides, words):
    new, never = tmp_path / "new.jsonl", tmp_path / "never"
    write_jsonl([{"prompt": "other", "response": "row"}], new)
    never.mkdir()
    (never / "config.yaml").write_text((base / "config.yaml").read_text())
    names = {"BASE": base, "NEW": new, "NEVER": never}
    filled = []
    for override in overrides:
        key, _, value = override.partition("=")
        filled.append(f"{key}={names.get(value, value)}")
    assert words in error_of(capsys, recipe, tmp_path / "run", *filled)


# --------------------------------------------------------------------------- command line


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_help_needs_no_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "influcoder_lightning.cli", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for recipe in RECIPES:
        assert f"  {recipe} " in done.stdout
    for heavy in ("torch", "lightning", "numpy", "pandas", "transformers"):
        assert not [line for line in done.stderr.splitlines() if line.endswith(f" {heavy}")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("recipe=selct", "did you mean 'select'?"),
        ("select.kk=3", "did you mean 'select.k'?"),
        ("+selct.k=3", "did you mean 'select.k'?"),
    ],
)
def test_unknown_names_on_the_command_line(commands, tmp_path, argument, words):
    done = command(commands / "influcoder", argument, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr


def test_a_quota_for_each_group_is_no_unknown_key(commands, base, tmp_path):
    quota = "+select.quota={translate:2,add:1,sort:0,reverse:0,repeat:0,initials:0}"
    options = ["recipe=select", f"from={base}", "select.strategy=per_group", "select.k=null"]
    options += [quota.removeprefix("+"), f"hydra.run.dir={tmp_path}/r"]
    done = command(commands / "influcoder", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tasks = [row["task"] for row in load_rows(tmp_path / "r" / "selected.jsonl")]
    assert sorted(tasks) == ["add", "translate", "translate"]
    # Nothing is written outside the run folder, and there is no traceback on stderr.
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert done.stderr == ""


def test_scripts_at_the_top_run_from_anywhere(commands, base, tmp_path):
    script = Path(__file__).parents[2] / "recipes" / "choose.py"
    options = [f"from={base}", "hydra.run.dir=chosen"]
    done = command(commands / "python", script, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "chosen" / "selected.jsonl").is_file()


@pytest.mark.slow
def interrupted(monkeypatch, at_step: int):
    """The training of a valuation breaks off before this step."""
    from influcoder_lightning.run.progress import ShowSteps

    def stop(self, trainer, *_):
        if trainer.global_step == at_step:
            raise KeyboardInterrupt

    monkeypatch.setattr(ShowSteps, "on_train_batch_end", stop)


def test_an_interrupted_valuation_goes_on(base, tmp_path, capsys, monkeypatch):
    """The same store as without the interruption, and no leftovers."""
    options = ["train.checkpoint_every_n_steps=2", f"from={base}", "train.epochs=2"]
    run("valuate", tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        interrupted(patch, 13)
        with pytest.raises(SystemExit):
            run("valuate", tmp_path / "cut", *options)
    capsys.readouterr()
    assert "resume=true" in error_of(capsys, "valuate", tmp_path / "cut", *options)
    run("valuate", tmp_path / "cut", *options, "resume=true")
    left, right = (InfluenceStore(tmp_path / name) for name in ("whole", "cut"))
    assert left.sample_ids.tolist() == right.sample_ids.tolist()
    assert (left.codes() == right.codes()).all()
    assert csv_ids(tmp_path / "whole" / "ranking.csv") == csv_ids(tmp_path / "cut" / "ranking.csv")
    names = [
        sorted(p.name for p in (tmp_path / n / "influence").iterdir()) for n in ("whole", "cut")
    ]
    assert names[0] == names[1] == ["adapters", "encoder", "influence.h5"]
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_an_interruption_before_the_first_checkpoint(base, tmp_path, capsys, monkeypatch):
    options = ["train.checkpoint_every_n_steps=100", f"from={base}"]
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(SystemExit):
            run("valuate", tmp_path, *options)
    capsys.readouterr()
    run("valuate", tmp_path, *options, "resume=true")
    assert InfluenceStore(tmp_path).n_rows == N
    written = (tmp_path / "influence" / "influence.h5").stat().st_mtime_ns
    run("valuate", tmp_path, f"from={base}", "resume=true")  # nothing is left to value
    assert (tmp_path / "influence" / "influence.h5").stat().st_mtime_ns == written
