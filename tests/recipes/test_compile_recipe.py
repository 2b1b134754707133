"""A ranking compiled into two adapters: plain PEFT folders that anybody can score with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from running import TINY, error_of, other_weights, run
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM

from influcoder_lightning import Ranking, load_rows, write_jsonl


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compile") / "base"
    run("quickstart", folder, *TINY, "train.epochs=2", "retrain.steps=1", "seeds=[0]")
    return folder


@pytest.fixture(scope="module", params=["cosine", "fisher"])
def compiled(request, base) -> Path:
    folder = base.parent / request.param
    run(
        "compile", folder, f"from={base}", f"rank.method={request.param}",
        "influence.sketch_dim=8192", "compile.checks=18",
    )  # fmt: skip
    return folder


def token_losses(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")


def test_plain_peft_gives_the_score_that_the_folder_says(base, compiled):
    """As the README in the folder has it, without a line of this package."""
    content = json.loads((compiled / "compiled" / "score.json").read_text())
    example, norm = content["example"], content["norm"]
    ids, first = torch.tensor(example["token_ids"]), example["first_response_token"]
    losses = []
    for name in ("plus", "minus"):
        model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
        model = PeftModel.from_pretrained(model, compiled / "compiled" / name).eval()
        losses.append(token_losses(model, ids)[first - 1 :])
    plus, minus = losses
    n = len(plus)
    slope = float((plus.mean() - minus.mean()) / (2 * content["step"]))
    loss = float((plus.mean() + minus.mean()) / 2)
    assert n == example["response_tokens"]
    assert loss == pytest.approx(example["loss"], rel=1e-5)
    assert slope == pytest.approx(example["slope"], rel=1e-2, abs=1e-3)
    foreseen = np.exp(norm["constant"] + norm["loss"] * np.log(loss) + norm["tokens"] * np.log(n))
    assert slope / foreseen == pytest.approx(example["score"], rel=1e-2, abs=1e-4)
    words = (compiled / "compiled" / "README.md").read_text()
    assert len(words.splitlines()) <= 40
    assert f"{example['score']:.6g}" in words


def test_new_rows_are_scored_by_forward_passes_alone(base, compiled, tmp_path):
    rows = [
        {"prompt": row["prompt"] + " ", "response": row["response"]}
        for row in load_rows(base / "data" / "pool.jsonl")[:20]
    ]
    write_jsonl(rows, tmp_path / "new.jsonl")
    pool = f"data.pool={tmp_path / 'new.jsonl'}"
    run("score", tmp_path / "one", f"from={compiled}", "rank.method=pair", pool)
    found = Ranking.load(tmp_path / "one" / "ranking.csv")
    assert found.n_scored == 20
    run(
        "score", tmp_path / "two", f"from={compiled}", "rank.method=pair", pool,
        "train.batch_size=3",
    )  # fmt: skip
    again = Ranking.load(tmp_path / "two" / "ranking.csv").align(found.sample_ids)
    assert spearmanr(again.scores, found.scores).statistic > 0.98


def test_another_model_is_refused(base, compiled, tmp_path, capsys):
    other = other_weights(base / "model", tmp_path)
    rows = f"data.pool={base / 'data' / 'eval.jsonl'}"
    keys = [f"from={compiled}", "rank.method=pair", rows, "data.eval=null", f"model.name={other}"]
    assert "compiled for another model" in error_of(capsys, "score", tmp_path / "run", *keys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ('{"step": -1, "norm": null, "method": "cosine"}', "no positive number"),
        ('{"step": 1, "norm": {"constant": 1}, "method": "cosine"}', "no model of norms"),
        ('{"step": 1, "norm": null, "method": 3}', "no text"),
    ],
)
def test_a_damaged_score_file_is_refused(base, compiled, tmp_path, capsys, content, words):
    copy = shutil.copytree(compiled, tmp_path / "copy")
    (copy / "compiled" / "score.json").write_text(content)
    keys = [f"from={copy}", "rank.method=pair", f"data.pool={base / 'data' / 'eval.jsonl'}"]
    said = error_of(capsys, "score", tmp_path / "run", *keys, "data.eval=null")
    assert words in said


def test_a_method_that_is_not_linear_is_refused(base, tmp_path, capsys):
    keys = [f"from={base}", "rank.method=self"]
    assert "cannot be compiled" in error_of(capsys, "compile", tmp_path / "run", *keys)
