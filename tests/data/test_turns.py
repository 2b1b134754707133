"""Each turn of the assistant as a sample of its own: its tokens have their loss there, once."""

from __future__ import annotations

import torch
from chat_templates import tokenizer_of

from influcoder_lightning import tokenize_rows
from influcoder_lightning.data.conversation import as_texts
from influcoder_lightning.data.turns import turns


def conversation(*texts):
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    prompt, response = as_texts(messages)
    return {"prompt": prompt, "response": response, "messages": messages}


def test_every_trained_token_of_a_conversation_is_in_one_turn():
    tokenizer = tokenizer_of("chatml")
    rows = [conversation("q0", "a0", "q1", "a1", "q2", "a2"), {"prompt": "q", "response": "a"}]
    found = list(turns(rows, ["c", "p"]))
    assert [turn.id for turn in found] == ["c/0", "c/1", "c/2", "p"]
    assert [turn.place for turn in found] == [0, 0, 0, 1]
    assert found[1].row["prompt"] == "q0\n\na0\n\nq1"
    assert found[1].row["response"] == "a1"
    whole = tokenize_rows(rows, tokenizer, "chat", 512)[0]
    single = tokenize_rows([t.row for t in found], tokenizer, "chat", 512, [t.id for t in found])
    places = []
    for index in range(3):
        sample = single[index]
        n = len(sample["input_ids"])
        assert torch.equal(sample["input_ids"], whole["input_ids"][:n])
        places += (sample["labels"] != -100).nonzero().flatten().tolist()
    assert places == (whole["labels"] != -100).nonzero().flatten().tolist()


def test_a_turn_of_weight_nought_is_no_sample():
    row = conversation("q0", "a0", "q1", "a1", "q2", "a2")
    row["messages"][3]["weight"] = 0
    assert [turn.row["response"] for turn in turns([row], [7])] == ["a0", "a2"]
    assert [turn.id for turn in turns([row], [7])] == ["7/0", "7/2"]
