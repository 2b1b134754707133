"""The recipes fidelity and icp on a tiny model: files, resuming, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from running import error_of, other_weights, run

from influcoder_lightning import Ranking, write_jsonl
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer
from influcoder_lightning.recipes import icp as icp_recipe

WORDS = ("red", "green", "blue", "one", "two")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)

    def rows(n, name):
        return [
            {
                "id": f"{name}{i}",
                "prompt": f"{name} {i}: say {' '.join(rng.choice(WORDS, 3))}",
                "response": " ".join(rng.choice(WORDS, 1 + i % 3)),
                "task": WORDS[i % 5],
            }
            for i in range(n)
        ]

    write_jsonl(rows(60, "p"), folder / "pool.jsonl")
    write_jsonl(rows(30, "q"), folder / "query.jsonl")
    tokenizer = build_tokenizer(["say red green blue one two"], 280, folder / "model")
    build_tiny_llama(folder / "model", tokenizer, hidden_size=32)
    return folder


def common(made: Path) -> list[str]:
    return [
        f"model.name={made / 'model'}",
        f"data.pool={made / 'pool.jsonl'}",
        f"data.query={made / 'query.jsonl'}",
        "train.max_length=64",
    ]


def test_fidelity_fills_the_whole_table_and_goes_on_where_it_stopped(
    made, tmp_path, sentence_encoder, capsys
):
    sentence_encoder.save(str(tmp_path / "encoder"))
    sizes = [
        f"fidelity.n_{side}.{part}={n}"
        for side, numbers in (("pool", (24, 6, 12)), ("query", (8, 4, 6)))
        for part, n in zip(("fit", "select", "eval"), numbers, strict=True)
    ]
    overrides = [
        *common(made), *sizes, "fidelity.curve=[10]", "influence.sketch_dim=128",
        "influence.code_dim=16", "fidelity.distil.epochs=2", "fidelity.distil.bf16=false",
        f"influence.text_encoder={tmp_path / 'encoder'}", "fidelity.distil_curve=true",
    ]  # fmt: skip
    folder = tmp_path / "run"
    run("fidelity", folder, *overrides, "seeds=[0]", "fidelity.states=[warm]")
    first = (folder / "parts" / "seed_0_warm.json").read_bytes()
    value = run("fidelity", folder, *overrides, "seeds=[0,1]", drawn=True)
    assert (folder / "parts" / "seed_0_warm.json").read_bytes() == first
    result = json.loads((folder / "fidelity.json").read_text())
    rows = {(row["name"], row["adapter"]): row for row in result["rows"]}
    assert {row["kind"] for row in result["rows"]} == {
        "code", "text", "forward", "feature", "baseline"
    }  # fmt: skip
    for state in ("fresh", "warm"):
        exact = rows["exact gradient (identity)", state]
        assert exact["per_query"] == exact["aggregated"] == 1.0
        assert exact["seeds"] == 2
        assert rows["gradient tower, 512 float16, length kept", state]["per_query"] > 0.9
        assert rows["text tower", state]["n_fit"] == 32
        assert ("published objective, last epoch", state) in rows
    assert ("text tower, co-trained", "warm") in rows
    assert ("text tower, co-trained", "fresh") not in rows
    assert value == pytest.approx(1 - rows["text tower", "warm"]["per_query"])
    assert {line["n_pool"] for line in result["curve"]} == {10, 24}
    assert result["cascade"][0]["cascade"] == result["cascade"][0]["random"]
    assert result["states_agree"] is not None
    for name in ("fidelity.csv", "fidelity.png", "curve.png", "cascade.png", "report.html"):
        assert (folder / name).stat().st_size > 0
    assert not (folder / "work").exists()
    model = other_weights(made / "model", tmp_path)
    capsys.readouterr()
    for change in ("train.lr=0.1", f"model.name={model}"):
        error = error_of(capsys, "fidelity", folder, *overrides, "seeds=[0]", change)
        assert "measured with other settings" in error


def test_fidelity_refuses_what_it_cannot_measure(made, tmp_path, capsys):
    for override, message in (
        ("fidelity.states=[cold]", "give fresh, warm or both"),
        ("fidelity.n_pool.eval=2", "at least 3"),
        ("seeds=[1,1]", "each once"),
        ("fidelity.n_pool.fit=1000", "different rows"),
    ):
        with pytest.raises(SystemExit):
            run("fidelity", tmp_path / "x", *common(made), override)
        assert message in capsys.readouterr().err


def test_icp_is_resumed_without_a_difference(made, tmp_path, monkeypatch, capsys):
    overrides = [*common(made), "icp.n_queries=5"]
    run("icp", tmp_path / "whole", *overrides)
    one_shot = icp_recipe.InContextProber.one_shot
    calls = []

    def interrupted(self, row):
        calls.append(row)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return one_shot(self, row)

    monkeypatch.setattr(icp_recipe.InContextProber, "one_shot", interrupted)
    with pytest.raises(SystemExit, match="130"):
        run("icp", tmp_path / "cut", *overrides)
    monkeypatch.undo()
    run("icp", tmp_path / "cut", *overrides)
    whole, cut = (np.load(tmp_path / name / "icp.npz") for name in ("whole", "cut"))
    assert whole["one_shot"].shape == (60, 5)
    for name in whole.files:
        np.testing.assert_array_equal(whole[name], cut[name])
    summary = json.loads((tmp_path / "cut" / "icp.json").read_text())
    assert (summary["n_samples"], summary["n_queries"]) == (60, 5)
    assert summary["samples_measured_before"] == 16
    ranking = Ranking.load(tmp_path / "cut" / "ranking.csv")
    shares = (cut["one_shot"] > cut["zero_shot"]).mean(axis=1)
    order = [str(i) for i in ranking.sample_ids]
    expected = dict(zip(cut["sample_ids"].tolist(), shares, strict=True))
    np.testing.assert_allclose(ranking.scores, [expected[i] for i in order], atol=1e-6)
    with pytest.raises(SystemExit):
        run("icp", tmp_path / "cut", *overrides, "icp.template='{prompt} {response}'")
    assert "another template" in capsys.readouterr().err
    model = other_weights(made / "model", tmp_path)
    error = error_of(capsys, "icp", tmp_path / "cut", *overrides, f"model.name={model}")
    assert "a run with another base_model" in error
    run("select", tmp_path / "selected", f"from={tmp_path / 'cut'}", "select.k=7")
    assert len((tmp_path / "selected" / "selected.jsonl").read_text().splitlines()) == 7
