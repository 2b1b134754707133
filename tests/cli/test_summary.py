"""The table that a run ends with says what the run's files say, and where they are."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from influcoder_lightning.cli.summary import outcome, print_summary
from influcoder_lightning.recipes import recipe_called

ARMS = {
    "base": {"mean": 2.0, "ci95": None, "eval_loss": [2.0]},
    "top_k": {"mean": 1.25, "ci95": [1.2, 1.3], "eval_loss": [1.2, 1.3]},
}


def print_closing(recipe: str, folder: Path, seconds: float) -> None:
    print_summary(recipe, recipe_called(recipe), folder, seconds)


def next_command(recipe: str, folder: Path) -> str | None:
    command = recipe_called(recipe).next_command
    return None if command is None else command(folder)


def write_ranking(folder: Path, ids: list[str]) -> None:
    with (folder / "ranking.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sample_id", "score", "rank"])
        writer.writerows([name, 0.5 - place, place + 1] for place, name in enumerate(ids))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A finished comparison, as its files tell it."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "comparison.json").write_text(json.dumps({"seeds": 2, "arms": ARMS}))
    write_ranking(run, ["a,b", "c", "d"])
    (run / "selected.jsonl").write_text("{}\n{}\n")
    (run / "report.html").write_text("<html>")
    (run / "report.md").write_text("#")
    return run


def test_without_a_terminal_it_is_aligned_text(folder, capsys):
    print_closing("compare", folder, 83.0)
    assert capsys.readouterr().out.splitlines() == [
        "compare: done in 1 min 23 s",
        "  held-out loss  nats per response token, 2 seeds, 95 % interval",
        "    base         2.0000",
        "    top_k        1.2500  [1.2000, 1.3000]",
        "  ranked         3 samples; best is a,b, score 0.5",
        "  chosen         2 samples",
        "  report         runs/first/report.html",
        "  ranking        runs/first/ranking.csv",
        "  chosen rows    runs/first/selected.jsonl",
        "next: influcoder recipe=compare from=runs/first rank.method=tracin",
    ]


def test_on_a_terminal_it_is_drawn(folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    print_closing("compare", folder, 1.0)
    assert "\x1b[" in terminal.getvalue()
    assert "runs/first/report.html" in terminal.getvalue()


def test_ids_cannot_steer_the_terminal(folder, capsys):
    write_ranking(folder, ["\x1b[2Jgone", "[red]b"])
    print_closing("compare", folder, 1.0)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[2Jgone" in shown


def test_paths_elsewhere_are_whole_and_quoted(folder, tmp_path, monkeypatch):
    elsewhere = tmp_path / "else"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    spaced = folder.rename(tmp_path / "my run")
    assert next_command("select", spaced) == f"influcoder recipe=retrain from='{spaced}'"


def test_the_next_step_fits_the_pool(folder):
    assert str(next_command("valuate", folder)).endswith("select.k=1")
    write_ranking(folder, [str(i) for i in range(250)])
    assert str(next_command("valuate", folder)).endswith("select.k=25")


def write_config(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text)


@pytest.mark.parametrize(
    ("config", "other"),
    [
        ("data: {query: q.jsonl}", "tracin"),
        ("{data: {query: q.jsonl}, rank: {method: tracin}}", "fisher"),
        ("{data: {query: null}, rank: {method: self}}", "loss"),
    ],
)
def test_another_method_is_another(folder, config, other):
    write_config(folder, config)
    for recipe in ("pipeline", "compare"):
        assert str(next_command(recipe, folder)).endswith(f"rank.method={other}")


def test_after_retraining_the_choice_is_compared(folder, tmp_path):
    retrained = tmp_path / "runs" / "retrained"
    assert next_command("retrain", retrained) is None
    write_config(retrained, f"{{from: {folder}, data: {{eval: {tmp_path}/own.jsonl}}}}")
    (retrained / "metrics.json").write_text('{"n_samples": 7}')
    write_config(folder, "{data: {eval: eval.jsonl}, select: {k: 2}}")
    command = "influcoder recipe=compare from=runs/first"
    assert next_command("retrain", retrained) == command
    write_config(folder, "data: {eval: null}")
    assert next_command("retrain", retrained) == f"{command} select.k=7 data.eval=own.jsonl"
    write_config(retrained, f"{{from: {folder}, data: {{eval: null}}}}")
    assert next_command("retrain", retrained) == f"{command} select.k=7 data.eval=eval.jsonl"
    (folder / "ranking.csv").unlink()  # a loop's is in its rounds
    assert next_command("retrain", retrained) is None
    write_config(retrained, "data: {pool: own.jsonl}")
    assert next_command("retrain", retrained) is None


def test_a_run_that_wrote_little(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    print_closing("agreement", tmp_path, 0.5)
    assert capsys.readouterr().out == "agreement: done in 0.5 s\n  folder  .\n"


def test_each_kind_of_result(tmp_path):
    results = {
        "metrics.json": {
            "eval_loss": {"before": 2.0, "after": 1.5}, "steps": 1000, "n_samples": 7,
        },
        "agreement.json": {"n": 9, "spearman": 0.5, "kendall": None, "overlap": {"3": 0.25}},
        "lds.json": {
            "seed_agreement": 0.7,
            "rows": [
                {"name": "cosine", "lds": 0.4, "ci95": [0.3, 0.5]},
                {"name": "fisher", "lds": 0.6, "ci95": [0.5, 0.7]},
            ],
        },
        "planted.json": {"k": 80, "skill_share_top_k": 0.9, "skill_share_chance": 0.17},
        "loop.json": {
            "rounds": [{"n_kept": 9}, {"n_kept": 4}], "best_round": 1,
            "stopped": "no gain", "seeds": 2, "arms": ARMS,
        },
        "fidelity.json": {
            "rows": [
                {"name": "text tower", "adapter": "warm", "kind": "text", "per_query": 0.7,
                 "ms_per_sample": 1.4},
            ],
        },
    }  # fmt: skip
    expected = {
        "metrics.json": {
            "trained on": "7 samples, 1,000 steps",
            "held-out loss": "2.0000 before, 1.5000 after (nats per response token)",
        },
        "agreement.json": {
            "samples": "9", "spearman": "0.500", "kendall": "undefined", "top 3 in common": "25%",
        },
        "lds.json": {"  fisher": "0.600  [0.500, 0.700]", "two seeds agree": "0.700"},
        "planted.json": {
            "planted rows": "90% of the top 80 are of the queries' skill (chance: 17%)"
        },
        "loop.json": {
            "loop": "best is round 1 of 1, 4 samples kept; no gain", "  base": "2.0000",
        },
        "fidelity.json": {"  text tower, warm": "0.700  1.4 ms"},
    }  # fmt: skip
    for name, content in results.items():
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(json.dumps(content))
        recipe = {"metrics": "retrain", "planted": "quickstart"}.get(folder.name, folder.name)
        assert outcome(recipe_called(recipe), folder).items() >= expected[name].items()
    assert str(next_command("lds", tmp_path / "lds")).endswith("rank.method=fisher")
