"""`resume=true` goes on with the run that was interrupted, or with none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from running import error_of, run

from influcoder_lightning import InfluenceStore, write_jsonl
from influcoder_lightning.data.skills import make_skill_data
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer
from influcoder_lightning.run.progress import ShowSteps

STOP = 3


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A valuation that was interrupted; returns its folder and the words of its command."""
    folder = tmp_path_factory.mktemp("resumed")
    data = make_skill_data(0, n_pool=24, n_query=4, n_evaluation=4)
    write_jsonl(data.pool, folder / "pool.jsonl")
    write_jsonl(data.query, folder / "query.jsonl")
    write_jsonl(data.query[:3], folder / "fewer.jsonl")
    texts = [f"{row['prompt']}\n{row['response']}" for row in data.pool]
    for name, seed in (("model", 0), ("other", 1)):
        tokenizer = build_tokenizer(texts, 300, folder / name)
        model = build_tiny_llama(folder / name, tokenizer, hidden_size=16, seed=seed)
        model.save_pretrained(str(folder / name))
    words = [
        f"model.name={folder / 'model'}", f"data.pool={folder / 'pool.jsonl'}",
        f"data.query={folder / 'query.jsonl'}", "train.steps=6", "train.batch_size=4", "lora.r=2",
        "train.checkpoint_every_n_steps=2", "influence.co_train=false", "influence.sketch_dim=64",
        "influence.code_dim=8",
    ]  # fmt: skip

    def stop(self, trainer, *_):
        if trainer.global_step == STOP:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShowSteps, "on_train_batch_end", stop)
        with pytest.raises(SystemExit) as ended:
            run("valuate", folder / "run", *words)
    assert ended.value.code == 130
    return folder, words


def changed_pool(folder: Path, change) -> str:
    rows = [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]
    write_jsonl(change(rows), folder / "changed.jsonl")
    return f"data.pool={folder / 'changed.jsonl'}"


def reply(rows):
    return [*rows[:5], {**rows[5], "response": "something else"}, *rows[6:]]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (lambda f: changed_pool(f, lambda rows: rows[::-1]), "data.pool"),
        (lambda f: changed_pool(f, reply), "data.pool"),
        (lambda f: changed_pool(f, lambda rows: rows[:-1]), "data.pool"),
        (lambda f: f"data.query={f / 'fewer.jsonl'}", "data.query"),
        (lambda f: "train.steps=4", "steps: 6 -> 4"),
        (lambda f: "train.steps=60", "steps: 6 -> 60"),
        (lambda f: "train.lr=0.5", "train.lr"),
        (lambda f: "train.max_length=200", "train.max_length: 512 -> 200"),
        (lambda f: "lora.r=3", "lora.r: 2 -> 3"),
        (lambda f: "seed=9", "seed: 0 -> 9"),
        (lambda f: "model.template='Q {prompt} A {response}'", "model.template"),
        (lambda f: f"model.name={f / 'other'}", "base_model"),
    ],
)
def test_what_has_changed_is_named_and_refused(stopped, capsys, word, told):
    folder, words = stopped
    capsys.readouterr()
    error = error_of(capsys, "valuate", folder / "run", *words, word(folder), "resume=true")
    assert "cannot go on with other settings or data" in error
    assert told in error


def test_the_same_run_from_moved_files_goes_on(stopped, tmp_path, caplog):
    """Where model and rows are does not count; what they hold does. At another pace of saving."""
    folder, words = stopped
    for name in ("model", "run"):
        shutil.copytree(folder / name, tmp_path / name)
    for name in ("pool.jsonl", "query.jsonl"):
        shutil.copy(folder / name, tmp_path / name)
    words = [word.replace(str(folder), str(tmp_path)) for word in words]
    run("valuate", tmp_path / "run", *words, "train.checkpoint_every_n_steps=3", "resume=true")
    store = InfluenceStore(tmp_path / "run")
    assert store.attributes["complete"]
    assert len(store) == 24
    assert "cannot be checked" not in caplog.text
