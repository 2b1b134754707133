"""Rows of every format of the field: recognised, or said, or refused in words."""

from __future__ import annotations

import pytest

from influcoder_lightning import load_rows, write_jsonl
from influcoder_lightning.data.rows import RowSource
from influcoder_lightning.errors import ConfigError, DataError

CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


def said(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


U, A = ("user", "q"), ("assistant", "a")
CASES = {
    "prompt_response": ({"prompt": "q", "response": "a"}, "q", "a", None),
    "prompt_completion": ({"prompt": "q", "completion": "a"}, "q", "a", None),
    "qa": ({"question": "q", "answer": "a"}, "q", "a", None),
    "alpaca": ({"instruction": "q", "input": "x", "output": "a"}, "q\n\nx", "a", None),
    "dolly": (
        {"instruction": "q", "context": "x", "response": "a", "category": "c"}, "q\n\nx", "a", None
    ),
    "question_response": (
        {"system_prompt": "s", "question": "q", "response": "a"}, "s\n\nq", "a",
        said(("system", "s"), U, A),
    ),
    "query_response": ({"query": "q", "response": "a"}, "q", "a", None),
    "problem_solution": ({"problem": "q", "solution": "a"}, "q", "a", None),
    "input_output": ({"input": "q", "output": "a"}, "q", "a", None),
    "preference": ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q", "a", None),
    "text": ({"text": "a"}, "", "a", None),
    "messages": ({"messages": said(U, A)}, "q", "a", said(U, A)),
    "conversations": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        "q", "a", said(U, A),
    ),
    "preference, no prompt": (
        {"chosen": said(U, ("assistant", "x"), U, A), "rejected": said(U, ("assistant", "x"), U)},
        "q\n\nx\n\nq", "a",
        [*said(U), {"role": "assistant", "content": "x", "weight": 0}, *said(U, A)],
    ),
}  # fmt: skip


def read(tmp_path, rows, **options):
    path = tmp_path / "rows.jsonl"
    write_jsonl(rows if isinstance(rows, list) else [rows], path)
    return RowSource(path, **options).load()


@pytest.mark.parametrize("name", CASES)
def test_a_format_is_recognised_by_its_columns(tmp_path, name):
    row, prompt, response, messages = CASES[name]
    (found,), shape = read(tmp_path, row)
    assert shape.format.name == name.partition(",")[0]
    assert (found["prompt"], found["response"]) == (prompt, response)
    assert found.get("messages") == messages


@pytest.mark.parametrize("name", CASES)
def test_a_row_that_a_run_has_written_is_read_as_it_was(tmp_path, name):
    (found,), _ = read(tmp_path, CASES[name][0])
    (again,), _ = read(tmp_path, found | {"id": 3})
    assert again == found | {"id": 3}


def test_system_and_history_of_alpaca_like_rows_become_turns(tmp_path):
    row = {"instruction": "q", "output": "a", "system": "s", "history": [["q0", "a0"]]}
    (found,), shape = read(tmp_path, row)
    turns = said(("system", "s"), ("user", "q0"), ("assistant", "a0"), U, A)
    assert found["messages"] == turns
    assert (found["prompt"], found["response"]) == ("s\n\nq0\n\nq", "a0\n\na")
    assert not shape.unused


def test_conversational_prompt_and_completion(tmp_path):
    row = {"prompt": said(("user", "x"), ("assistant", "y"), U), "completion": said(A)}
    (found,), _ = read(tmp_path, row)
    # Turns of the prompt have no loss.
    assert [m.get("weight") for m in found["messages"]] == [None, 0, None, None]
    assert (found["prompt"], found["response"]) == ("x\n\ny\n\nq", "a")


def test_a_prompt_beside_whole_conversations_is_what_they_begin_with(tmp_path):
    row = {"prompt": "q", "chosen": said(U, A), "rejected": said(U, ("assistant", "b"))}
    (found,), _ = read(tmp_path, row)
    assert found["messages"] == said(U, A)
    (found,), _ = read(tmp_path, row, format="rejected")
    assert found["messages"] == said(U, ("assistant", "b"))


def test_texts_of_a_conversation_go_by_turns(tmp_path):
    (found,), _ = read(tmp_path, {"conversations": ["q", "a", "q", "a"]})
    assert found["messages"] == said(U, A, U, A)


def test_a_call_in_the_old_words_is_a_call_of_a_tool(tmp_path):
    call = {"name": "f", "arguments": '{"x": 1}'}
    row = {
        "messages": [
            *said(U),
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "f", "content": "1"},
            *said(A),
        ]
    }
    (found,), _ = read(tmp_path, row)
    assert [message["role"] for message in found["messages"]] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert found["messages"][1]["tool_calls"] == [{"type": "function", "function": call}]


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"Prompt": "q", "Response": "a"}, "data.columns={prompt: Prompt, response: Response}"),
        ({"chat": said(U, A)}, "data.columns={messages: chat}"),
        ({"content": "x"}, "data.columns={prompt: ..., response: ...}"),
    ],
)
def test_what_is_not_recognised_comes_with_the_key_that_would_say_it(tmp_path, row, key):
    with pytest.raises(DataError) as error:
        read(tmp_path, row)
    assert key in str(error.value)
    if "..." not in key:
        columns = dict(part.split(": ") for part in key[14:-1].split(", "))
        (found,), _ = read(tmp_path, row, columns=columns)
        assert (found["prompt"], found["response"]) == ("q", "a")


@pytest.mark.parametrize("column", ["completion", "chosen"])
def test_texts_with_a_system_prompt_are_a_conversation(tmp_path, column):
    (found,), shape = read(tmp_path, {"prompt": "q", column: "a", "system": "s"})
    assert found["messages"] == said(("system", "s"), U, A)
    assert not shape.unused


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "assistant", "value": "y"}, "a role and no content; its fields: role, value"),
        ({"from": "gpt", "text": "y"}, "a role and no value; its fields: from, text"),
        ({"role": "assistant", "content": "y", "weight": "0"}, "must be 0"),
        ({"role": "assistant", "content": "y", "weight": 0.5}, "must be 0"),
    ],
)
def test_a_message_that_says_nothing_or_half_is_refused(tmp_path, message, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, {"messages": [*said(U), message]})


def test_columns_may_change_places(tmp_path):
    row = {"prompt": "a", "response": "q"}
    (found,), _ = read(tmp_path, row, columns={"prompt": "response", "response": "prompt"})
    assert (found["prompt"], found["response"]) == ("q", "a")


def test_a_column_that_not_every_row_has_can_be_named(tmp_path):
    rows = [{"prompt": "q", "response": "a"}, {"prompt": "q", "response": "a", "sys": "s"}]
    _, second = read(tmp_path, rows, columns={"system": "sys"})[0]
    assert second["messages"][0] == {"role": "system", "content": "s"}


def test_columns_can_be_named(tmp_path):
    row = {"frage": "q", "antwort": "a", "nr": 4}
    columns = {"prompt": "frage", "response": "antwort", "id": "nr"}
    (found,), _ = read(tmp_path, row, columns=columns)
    assert (found["prompt"], found["response"], found["id"]) == ("q", "a", 4)
    with pytest.raises(DataError, match=r"data\.columns names 'fragen'"):
        read(tmp_path, row, columns={"prompt": "fragen"})
    with pytest.raises(ConfigError, match=r"unknown key 'promt'; did you mean 'prompt'"):
        read(tmp_path, row, columns={"promt": "frage"})


def test_a_format_can_be_said(tmp_path):
    row = CASES["preference"][0]
    (found,), _ = read(tmp_path, row, format="rejected")
    assert found["response"] == "b"
    with pytest.raises(ConfigError, match="did you mean 'rejected'"):
        read(tmp_path, row, format="reject")
    with pytest.raises(DataError, match=r"'messages' is missing.*looks like preference"):
        read(tmp_path, row, format="messages")


def test_what_is_not_used_is_known(tmp_path):
    _, shape = read(tmp_path, {"prompt": "q", "response": "a", "context": "c", "n": 1, "id": 1})
    assert list(shape.unused) == ["context", "n"]
    assert shape.ignored_context() == ["context"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"frage": "q", "antwort": "a"}, r"Columns: frage, antwort\. Nearest format"),
        ({"questions": "q", "answer": "a"}, r"Nearest format: qa"),
        ([{"prompt": "q", "response": "a"}, {"messages": said(U, A)}],
         r"rows\.jsonl:2: the field 'prompt' is missing.*looks like messages"),
        ({"messages": said(U)}, "no turn of the assistant"),
        ({"messages": said(("boss", "x"), A)}, "unknown role 'boss'"),
        ({"messages": said(U, ("system", "s"), A)}, "can only come first"),
        ({"messages": said(("tool", "x"), A)}, "none was called before"),
        ({"messages": "no json"}, "no valid JSON"),
        ({"messages": []}, "must be a list of messages"),
        ({"messages": [3]}, "must be an object"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, *said(A)]},
         "parts that are no text"),
        ({"prompt": "q", "completion": said(A)}, "must both be texts"),
        ({"instruction": "q", "output": "a", "history": ["x"]}, "list of "),
        ({"prompt": 3, "response": "a"}, "'prompt' must be a string"),
        ({}, "Columns: none"),
    ],
)  # fmt: skip
def test_rows_that_fit_no_format_are_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, rows)


def test_content_in_parts_tools_and_calls(tmp_path):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "name": None},
        {"role": "tool", "content": "3", "tool_call_id": "x"},
        {"role": "assistant", "content": "a"},
    ]
    (found,), _ = read(tmp_path, {"messages": messages, "tools": '[{"type": "function"}]'})
    assert [m["content"] for m in found["messages"]] == ["q!", "", "3", "a"]
    assert "name" not in found["messages"][1]
    assert found["tools"] == [{"type": "function"}]
    calls = [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f"}'},
             {"from": "observation", "value": "3"}, {"from": "gpt", "value": "a"}]  # fmt: skip
    (found,), _ = read(tmp_path, {"conversations": calls, "system": "s"})
    assert [m["role"] for m in found["messages"]] == [
        "system", "user", "assistant", "tool", "assistant"
    ]  # fmt: skip
    assert found["messages"][2]["tool_calls"] == [CALL]


def test_load_rows_takes_format_and_columns(tmp_path):
    write_jsonl([{"q": "a", "r": "b"}], tmp_path / "x.jsonl")
    (row,) = load_rows(tmp_path / "x.jsonl", columns={"prompt": "q", "response": "r"})
    assert (row["prompt"], row["response"]) == ("a", "b")
