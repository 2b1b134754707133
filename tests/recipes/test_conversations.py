"""Conversations through the command: turns as samples, chosen rows in their own form, a look."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from chat_templates import tokenizer_of
from running import error_of, run
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning import InfluenceStore, Ranking, load_rows
from influcoder_lightning.data.rows import as_written


def chat(*texts, **weights):
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    for at, weight in weights.items():
        messages[int(at[1:])]["weight"] = weight
    return messages


POOL = [
    {"messages": chat("Sun?", "kel", "Moon?", "tor", "Star?", "mi"), "source": "x"},
    {"messages": chat("Red?", "zu"), "source": "y"},
    {"messages": chat("Blue?", "ba", "Sure?", "Yes, it is ba.", m1=0), "source": "x"},
    {"messages": chat("Green?", "lo", "Loud?", "LO"), "source": "y"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conversations")
    tokenizer = tokenizer_of("chatml")
    tokenizer.save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in POOL))
    query = [{"prompt": "Sky?", "response": "ba"}, {"prompt": "Sea?", "response": "lo"}]
    (folder / "query.jsonl").write_text("".join(json.dumps(row) + "\n" for row in query))
    return folder


@pytest.fixture(scope="module")
def given(place):
    return [
        f"model.name={place}/model", f"data.pool={place}/pool.jsonl",
        f"data.query={place}/query.jsonl", "train.batch_size=2", "lora.r=2",
        "influence.sketch_dim=64", "influence.code_dim=8",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def valued(place, given):
    run("valuate", place / "valued", *given, "data.unit=turn")
    return place / "valued"


def test_every_turn_has_a_row_and_every_conversation_a_score(valued):
    turns = pd.read_csv(valued / "ranking.csv")
    assert sorted(turns["sample_id"]) == ["0/0", "0/1", "0/2", "1", "2/1", "3/0", "3/1"]
    tokenizer, weights = tokenizer_of("chatml"), {}
    for number, row in enumerate(POOL):
        said = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        for turn, text in enumerate(said):
            name = f"{number}/{turn}" if len(said) > 1 else str(number)
            weights[name] = len(tokenizer(f"{text}<|im_end|>\n")["input_ids"])
    assert set(InfluenceStore(valued).sample_ids.tolist()) <= set(weights)
    whole = pd.read_csv(valued / "conversations.csv", dtype={"sample_id": str})
    assert sorted(whole["sample_id"]) == ["0", "1", "2", "3"]
    for name, score in zip(whole["sample_id"], whole["score"], strict=True):
        mine = turns[turns["sample_id"].str.split("/").str[0] == name]
        tokens = [weights[turn] for turn in mine["sample_id"]]
        assert score == pytest.approx(np.average(mine["score"], weights=tokens))


@pytest.mark.parametrize(
    ("form", "name"),
    [("jsonl", "selected.jsonl"), ("parquet", "selected.parquet"), ("dataset", "selected")],
)
def test_whole_conversations_come_back_as_they_were(valued, tmp_path, form, name):
    run("select", tmp_path / "s", f"from={valued}", "select.k=2", f"select.output={form}")
    rows = as_written(str(tmp_path / "s" / name), [0, 1])
    best = pd.read_csv(valued / "conversations.csv", dtype={"sample_id": str})[:2]
    assert [row.pop("influence_score") for row in rows] == pytest.approx(best["score"].tolist())

    def known(row):  # a table has every field in every message
        messages = [{k: v for k, v in m.items() if v is not None} for m in row["messages"]]
        return row | {"messages": messages}

    assert [known(row) for row in rows] == [POOL[int(i)] for i in best["sample_id"]]
    run("retrain", tmp_path / "r", f"from={tmp_path / 's'}", "train.steps=1")
    assert (tmp_path / "r" / "adapter").is_dir()


def test_chosen_turns_keep_their_loss_and_the_others_lose_it(valued, tmp_path):
    run("select", tmp_path / "s", f"from={valued}", "select.k=3", "select.unit=turn")
    best = Ranking.load(valued / "ranking.csv").top_k(3)
    rows = as_written(str(tmp_path / "s" / "selected.jsonl"), range(len({n[0] for n in best})))
    kept = set()
    for row in rows:
        number = next(i for i, own in enumerate(POOL) if own["messages"][0] == row["messages"][0])
        assert row["source"] == POOL[number]["source"]
        said = [m for m in row["messages"] if m["role"] == "assistant"]
        turns = [i for i, message in enumerate(said) if message.get("weight", 1) != 0]
        kept |= {f"{number}/{i}" if len(said) > 1 else str(number) for i in turns}
    assert kept == set(best)
    # What is trained on are these turns and no others.
    run("retrain", tmp_path / "r", f"from={tmp_path / 's'}", "train.steps=1")
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["n_samples"] == 3


@pytest.mark.parametrize("form", ["parquet"])
def test_chosen_turns_of_a_pool_in_other_words_come_in_one_format(place, given, tmp_path, form):
    said = [["q0", "a0", "q1", "a1"], ["q2", "a2"]]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"conversations": turns}) + "\n" for turns in said))
    run("valuate", tmp_path / "v", *given, f"data.pool={pool}", "data.unit=turn")
    more = ["select.k=3", "select.unit=turn", f"select.output={form}"]
    run("select", tmp_path / "s", f"from={tmp_path / 'v'}", *more)
    rows = load_rows(tmp_path / "s" / f"selected.{form}")
    assert sorted(row["response"] for row in rows) == ["a0\n\na1", "a2"]
    assert all(row["messages"] for row in rows)
    run("retrain", tmp_path / "r", f"from={tmp_path / 's'}", "train.steps=1")


def test_comparing_takes_whole_conversations(valued, place, tmp_path):
    (place / "eval.jsonl").write_text('{"prompt": "Sand?", "response": "mi"}\n')
    run(
        "compare", tmp_path / "c", f"from={valued}", f"data.eval={place}/eval.jsonl",
        "select.k=2", "seeds=[0,1]", "train.steps=1", "retrain.steps=1",
    )  # fmt: skip
    assert set(json.loads((tmp_path / "c" / "comparison.json").read_text())["arms"]) >= {"top_k"}


@pytest.mark.parametrize(
    ("recipe", "more", "says"),
    [
        ("loop", ["data.unit=turn", "data.eval=none.jsonl"], "leave data.unit=conversation"),
        ("valuate", ["data.unit=sentence"], "conversation"),
    ],
)
def test_what_turns_do_not_go_with_is_refused(place, given, tmp_path, capsys, recipe, more, says):
    assert says in error_of(capsys, recipe, tmp_path / "out", *given, *more)


def test_single_turns_are_only_chosen_where_turns_were_valued(place, given, tmp_path, capsys):
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.yaml").write_text("data: {unit: conversation}\n")
    (tmp_path / "whole" / "ranking.csv").write_text("sample_id,score\n0,1\n")
    at = [f"from={tmp_path / 'whole'}", "select.k=1", "select.unit=turn"]
    assert "value with data.unit=turn" in error_of(capsys, "select", tmp_path / "s", *at)


def test_a_look_counts_shows_tokens_and_estimates(place, given, tmp_path, capsys):
    run("look", tmp_path / "look", *given)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "look" / "look.json").read_text())
    assert found["pool"]["rows"] == 4
    assert found["valuation"]["steps"] == 2
    assert all(found["valuation"][name] > 0 for name in ("seconds", "memory", "disk"))
    assert "next: " in said
    assert "recipe=valuate" in said
    page = (tmp_path / "look" / "report.md").read_text()
    assert "Red?" in page.replace("|", "")
    assert "[[|" in page


def test_the_disk_that_a_look_names_is_what_the_valuation_takes(place, given, tmp_path):
    run("look", tmp_path / "look", *given, "train.epochs=5")
    run("valuate", tmp_path / "valued", *given, "train.epochs=5")
    said = json.loads((tmp_path / "look" / "look.json").read_text())["valuation"]["disk"]
    files = (tmp_path / "valued" / "influence").rglob("*")
    taken = sum(path.stat().st_size for path in files if path.is_file())
    assert said == pytest.approx(taken, rel=0.5)


def test_a_token_that_the_model_does_not_know_is_refused_before_it_is_loaded(
    place, given, tmp_path, capsys
):
    tokenizer = tokenizer_of("chatml")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\\n", "assistant\\n<new>")
    bad = tmp_path / "model"
    tokenizer.save_pretrained(bad)
    for name in ("config.json", "model.safetensors"):
        (bad / name).write_bytes((place / "model" / name).read_bytes())
    tokenizer.chat_template = "{% for m in messages %}<new>{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(bad)
    said = error_of(capsys, "valuate", tmp_path / "out", *given[1:], f"model.name={bad}")
    assert "resize_token_embeddings" in said
    assert "<new>" in said


def test_rows_read_in_another_form_are_the_same_samples(valued, tmp_path):
    run("select", tmp_path / "s", f"from={valued}", "select.k=4", "select.output=dataset")
    texts = {row["response"] for row in load_rows(tmp_path / "s" / "selected")}
    assert texts == {row["response"] for row in load_rows(valued.parent / "pool.jsonl")}
