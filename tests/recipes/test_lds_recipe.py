"""recipe=lds on a tiny model: files, resuming, imported scores, and errors."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import running

from influcoder_lightning import write_jsonl
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer

WORDS = ("red", "green", "blue", "one", "two")


run = partial(running.run, "lds")


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> list[str]:
    made = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)

    def rows(n, name):
        return [
            {
                "id": f"{name}{i}",
                "prompt": f"{name} {i}: say {WORDS[i % 5]}",
                "response": " ".join([WORDS[i % 5]] * rng.integers(1, 4)),
            }
            for i in range(n)
        ]

    write_jsonl(rows(12, "p"), made / "pool.jsonl")
    write_jsonl(rows(3, "q"), made / "query.jsonl")
    tokenizer = build_tokenizer(["say red green blue one two"], 280, made / "model")
    build_tiny_llama(made / "model", tokenizer, hidden_size=32)
    return [
        f"model.name={made / 'model'}", f"data.pool={made / 'pool.jsonl'}",
        f"data.query={made / 'query.jsonl'}", "train.max_length=64", "train.lr=1e-2",
        "influence.sketch_dim=128", "influence.code_dim=16", "lds.seeds=[1,2]", "lds.processes=1",
    ]  # fmt: skip


def test_a_study_writes_its_files_and_goes_on_where_it_stopped(common, tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "theirs.npy", rng.normal(size=(3, 12)))
    overrides = [
        *common, "lds.methods=[cosine,tfidf]", f"+lds.scores={{theirs: {tmp_path / 'theirs.npy'}}}",
        "lds.removal=[0.1,0.3]",
    ]  # fmt: skip
    folder = tmp_path / "run"
    run(folder, *overrides, "lds.n_subsets=3")
    adapters = folder / "models" / "adapters"
    first = {path.name: path.stat().st_mtime_ns for path in adapters.iterdir()}
    assert len(first) == 2 * (1 + 3 + 2 + 2)  # full, subsets, cosine's and random's
    value = run(folder, *overrides, "lds.n_subsets=5", drawn=True)
    again = {path.name: path.stat().st_mtime_ns for path in adapters.iterdir()}
    assert first.items() <= again.items()
    assert len(again) == len(first) + 4
    result = json.loads((folder / "lds.json").read_text())
    assert [row["name"] for row in result["rows"]] == ["cosine", "tfidf", "theirs"]
    assert value == pytest.approx(1 - result["rows"][0]["lds"])
    for row in result["rows"]:
        assert -1 <= row["ci95"][0] <= row["ci95"][1] <= 1
    assert "first_minus_this" not in result["rows"][0]
    assert -1 <= result["seed_agreement"] <= 1
    assert result["n_subsets"] == 5
    assert set(result["removal"]) == {"cosine", "random"}
    assert [point["n_removed"] for point in result["removal"]["cosine"]] == [1, 4]
    for name in ("lds.csv", "lds.png", "removal.png", "report.html", "config.yaml"):
        assert (folder / name).stat().st_size > 0

    losses = next((folder / "models").glob("losses_*"))
    kept = sorted(losses.iterdir())
    before = [path.read_text() for path in kept]
    for path in kept:  # losses come again from the models that were kept
        path.unlink()
    run(folder, *overrides, "lds.n_subsets=5")
    for path, text in zip(kept, before, strict=True):
        assert json.loads(path.read_text())["losses"] == pytest.approx(json.loads(text)["losses"])
    assert again == {path.name: path.stat().st_mtime_ns for path in adapters.iterdir()}

    other = tmp_path / "other"  # another run shares valuation and models
    run(
        other, *common, "lds.methods=[tracin]", "lds.n_subsets=5", f"from={folder}",
        f"lds.models={folder / 'models'}", "lds.removal=[]",
    )  # fmt: skip
    assert len(list(adapters.iterdir())) == len(again)
    assert not (other / "influence").exists()
    assert not (other / "removal.png").exists()

    (tmp_path / "changed").mkdir()
    model = running.other_weights(Path(common[0].partition("=")[2]), tmp_path / "changed")
    words = [*overrides, "lds.n_subsets=5", f"model.name={model}"]
    assert "other settings (base_model)" in running.error_of(capsys, "lds", folder, *words)
    error = running.error_of(capsys, "lds", tmp_path / "third", *words, f"from={folder}")
    assert "was valued with another base_model" in error


def test_what_cannot_be_judged_is_refused_before_anything_is_trained(common, tmp_path, capsys):
    for override, message in (
        ("lds.seeds=[0,1]", "would flatter it"),
        ("lds.seeds=[1]", "give two at least"),
        ("lds.n_subsets=2", "at least 3"),
        ("lds.methods=[cosin]", "is no method"),
        ("lds.methods=[]", "nothing to judge"),
        ("lds.share=1.5", "leaves"),
        ("+lds.scores={cosine: x.npy}", "choose another name"),
        ("lds.removal_methods=[bm42]", "is none of"),
        ("lds.removal=[0.1,1.0]", "no share"),
    ):
        with pytest.raises(SystemExit):
            run(tmp_path / "x", *common, override)
        assert message in capsys.readouterr().err
