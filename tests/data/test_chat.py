"""Conversations through chat templates: ids of the tokenizer itself, a loss where it belongs."""

from __future__ import annotations

import re
from functools import cache

import pytest
from chat_templates import TEMPLATES, tokenizer_of
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import tokenize_rows
from influcoder_lightning.data import chat
from influcoder_lightning.data.chat import ChatEncoder
from influcoder_lightning.data.conversation import as_texts
from influcoder_lightning.errors import ConfigError, DataError

NAMES = sorted(TEMPLATES)
PLAIN = [name for name in NAMES if name not in ("marked", "tools")]
tokenizer_called = cache(tokenizer_of)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=12).map(
    lambda text: re.sub(r"[<\[]", "(", text)
)
SAID = TEXT.filter(lambda text: text.strip())


@st.composite
def conversations(draw):
    system = [{"role": "system", "content": draw(SAID)}] if draw(st.booleans()) else []
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        turns += [{"role": "user", "content": draw(SAID)}]
        turns += [{"role": "assistant", "content": draw(SAID)}]
    return system + turns


def as_row(messages):
    prompt, response = as_texts(messages)
    return {"prompt": prompt, "response": response, "messages": messages}


def trained_texts(tokenizer, encoded):
    return [tokenizer.decode(encoded.ids[a:b]) for a, b in encoded.trained]


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
def test_ids_are_those_of_the_tokenizer(name, messages):
    tokenizer = tokenizer_called(name)
    expected = tokenizer.apply_chat_template(messages, return_dict=False)
    encoded = ChatEncoder(tokenizer).encode(as_row(messages), "row 0")
    assert encoded.ids == expected
    assert not encoded.spells_special


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
def test_the_loss_is_on_what_the_assistant_says_and_on_its_end(name, messages):
    tokenizer = tokenizer_called(name)
    row = as_row(messages)
    said = [m["content"].strip() for m in messages if m["role"] == "assistant"]
    for train_on, expected in (("assistant", said), ("last", said[-1:])):
        encoded = ChatEncoder(tokenizer, train_on).encode(row, "row 0")
        texts = trained_texts(tokenizer, encoded)
        assert len(texts) == len(expected)
        for text, content in zip(texts, expected, strict=True):
            assert text.strip().startswith(content)
            rest = text.strip()[len(content) :].strip()
            # End tokens alone follow: of the turn, and at the very end of the row.
            for token in tokenizer.all_special_tokens:
                rest = rest.replace(token, "")
            assert not rest.strip()
            assert any(token in text for token in tokenizer.all_special_tokens)


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations(), data=st.data())
def test_special_tokens_that_a_row_spells_stay_text(name, messages, data):
    """Ids are of the rendering with that text encoded by split_special_tokens=True."""
    tokenizer = tokenizer_called(name)
    special = data.draw(st.sampled_from(tokenizer.all_special_tokens))
    at = data.draw(st.integers(0, len(messages) - 1))
    where = data.draw(st.sampled_from([f"{special}x", f"x{special}y", f"x{special}{special}"]))
    spelled = [dict(m) for m in messages]
    spelled[at]["content"] += where
    encoded = ChatEncoder(tokenizer).encode(as_row(spelled), "row 0")
    assert encoded.spells_special
    rendered = tokenizer.apply_chat_template(spelled, tokenize=False)
    assert tokenizer.decode(encoded.ids) == rendered
    stood_in = [dict(m) for m in messages]
    stood_in[at]["content"] += where.replace(special, "\uf8ff")
    ids = tokenizer.apply_chat_template(stood_in, return_dict=False)
    specials = set(tokenizer.all_special_ids)
    assert [i for i in encoded.ids if i in specials] == [i for i in ids if i in specials]
    plain = ChatEncoder(tokenizer).encode(as_row(stood_in), "row 0")
    assert [text.replace("\uf8ff", special) for text in trained_texts(tokenizer, plain)] == (
        trained_texts(tokenizer, encoded)
    )


def test_a_row_may_spell_a_special_token_any_number_of_times(monkeypatch):
    monkeypatch.setattr(chat, "_STAND_IN", 0x10FFFD)  # three characters are left
    tokenizer = tokenizer_called("chatml")
    row = {"prompt": "q", "response": "<|im_end|>" * 20}
    encoded = ChatEncoder(tokenizer).encode(row, "row 0")
    assert encoded.spells_special
    assert encoded.ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 3


def test_a_turn_of_weight_nought_has_no_loss():
    tokenizer = tokenizer_called("chatml")
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "first", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "second", "weight": 1},
    ]
    encoded = ChatEncoder(tokenizer).encode(as_row(messages), "row 0")
    assert trained_texts(tokenizer, encoded) == ["second<|im_end|>\n"]
    everything = ChatEncoder(tokenizer, "all").encode(as_row(messages), "row 0")
    texts = trained_texts(tokenizer, everything)
    assert "".join(texts) == tokenizer.decode(everything.ids).replace("first<|im_end|>\n", "")


def test_tools_and_their_calls_are_rendered():
    tokenizer = tokenizer_called("tools")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    encoded = ChatEncoder(tokenizer).encode(as_row(messages) | {"tools": tools}, "row 0")
    expected = tokenizer.apply_chat_template(messages, tools=tools, return_dict=False)
    assert encoded.ids == expected
    first, last = trained_texts(tokenizer, encoded)
    assert first.startswith('<call>{"name": "add"')
    assert last.startswith("It is 3.")


@pytest.mark.parametrize("name", NAMES)
def test_an_assistant_that_begins_has_its_loss_behind_what_the_template_begins_with(name):
    tokenizer = tokenizer_of(name)
    messages = [
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
    ]
    try:
        tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # of those that insist on the user
        return
    row = {"prompt": "Hi", "response": "Welcome.\n\nHo", "messages": messages}
    sample = tokenize_rows([row], tokenizer, "chat", 512)[0]
    said = tokenizer.decode(sample["input_ids"][sample["labels"] != -100])
    assert said.startswith("Welcome.")
    assert "Ho" in said
    assert "Hi" not in said


def labelled(template, *messages):
    """What has a loss, turn by turn, of messages (role, content) in a template."""
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = template
    said = [{"role": role, "content": content} for role, content in messages]
    encoded = ChatEncoder(tokenizer).encode(as_row(said), "row 0")
    return trained_texts(tokenizer, encoded)


PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def test_a_template_that_knows_no_generation_prompt_has_its_header_outside_the_loss():
    texts = labelled(PLAIN, ("user", "q"), ("assistant", "assistant"), ("user", "r"),
                     ("assistant", "b"))  # fmt: skip
    assert texts == ["assistant<|im_end|>\n", "b<|im_end|>\n"]


@pytest.mark.parametrize("content", ["i", "end", "im", "user", "assistant"])
def test_a_first_turn_is_not_looked_for_by_its_text(content):
    texts = labelled(PLAIN, ("assistant", content), ("user", "q"), ("assistant", "z"))
    assert texts == [f"{content}<|im_end|>\n", "z<|im_end|>\n"]


def test_an_answer_that_begins_like_the_generation_prompt_keeps_its_first_tokens():
    tokenizer = tokenizer_of("deepseek")
    row = as_row([{"role": "user", "content": "q"}, {"role": "assistant", "content": "<table>"}])
    (text,) = trained_texts(tokenizer, ChatEncoder(tokenizer).encode(row, "row 0"))
    assert text.startswith("<table>")


@pytest.mark.parametrize("content", ["user", "system", "i", "start", "a"])
def test_what_is_cut_is_the_first_question_and_no_part_of_the_template(content):
    tokenizer = tokenizer_of("chatml")
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "a" * 20},
        {"role": "user", "content": "q" * 30},
        {"role": "assistant", "content": "b" * 20},
    ]
    encoded = ChatEncoder(tokenizer).encode(as_row(messages), "row 0")
    whole = tokenizer.decode(encoded.ids)
    start, stop = encoded.prompt
    begun = tokenizer.decode(encoded.ids[:start])
    assert whole.startswith(f"{begun}{content}<|im_end|>")
    assert begun.endswith("<|im_start|>user\n")
    assert tokenizer.decode(encoded.ids[start:stop]) == content


def test_what_stands_beside_a_call_is_not_dropped_without_a_word():
    calls = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}"
        "{{ m.tool_calls[0].function.name }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
        "{% endfor %}"
    )
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = calls
    other = {"type": "function", "function": {"name": "g", "arguments": {}}}
    for message, what in (
        ({"content": "I will look", "tool_calls": [CALL]}, "what is said beside a call"),
        ({"content": "", "tool_calls": [CALL, other]}, "calls behind the first"),
        ({"content": "a", "reasoning_content": "because"}, "reasoning_content"),
    ):
        said = [{"role": "user", "content": "q"}, {"role": "assistant", **message}]
        with pytest.raises(DataError, match=f"leaves out {what}"):
            ChatEncoder(tokenizer).encode(as_row(said), "row 0")


CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
_HEAD = "{% for m in messages %}{% if m.role in roles %}<|im_start|>{{ m.role }}\n{{ m.content }}"


@pytest.mark.parametrize(
    ("roles", "messages", "tools", "what"),
    [
        (["user", "assistant"], [("system", "s"), ("user", "q"), ("assistant", "a")], None,
         "what the system says"),
        (["user", "assistant"],
         [("user", "q"), ("assistant", "a"), ("tool", "1"), ("assistant", "b")], None,
         "what the tool says"),
        (["system", "user", "assistant"], [("user", "q"), ("assistant", "call")], None,
         "calls of tools"),
        (["system", "user", "assistant"], [("user", "q"), ("assistant", "a")], [TOOL], "tools"),
    ],
)  # fmt: skip
def test_what_a_template_would_leave_out_without_a_word_is_refused(roles, messages, tools, what):
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = (
        _HEAD.replace("roles", repr(roles)) + "<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    said = [{"role": role, "content": content} for role, content in messages]
    for message in said:
        if message["content"] == "call":
            message["tool_calls"] = [CALL]
    row = {"prompt": "q", "response": "a", "messages": said, "tools": tools}
    with pytest.raises(DataError, match=f"row 0: the chat template leaves out {what}"):
        tokenize_rows([row], tokenizer, "chat", 512)


def test_a_template_that_fails_names_the_row():
    tokenizer = tokenizer_called("mistral")
    messages = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(DataError, match=r"row 7.*template fails.*must alternate.*assistant, user"):
        ChatEncoder(tokenizer).encode(as_row(messages), "row 7")


def test_a_template_that_rewrites_earlier_turns_is_refused():
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' or loop.last %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% else %}(said before){% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = as_row([{"role": r, "content": "x"} for r in ("user", "assistant") * 2])
    with pytest.raises(DataError, match=r"row 3: .*data\.train_on=last"):
        ChatEncoder(tokenizer).encode(row, "row 3")
    assert trained_texts(tokenizer, ChatEncoder(tokenizer, "last").encode(row, "row 3")) == [
        "x<|im_end|>\n"
    ]


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        tokenize_rows([{"prompt": "a", "response": "b"}], tokenizer, "chat", 64)


def test_a_long_conversation_loses_the_head_of_its_first_question():
    tokenizer = tokenizer_called("chatml")
    row = {"prompt": "q" * 200 + "LAST", "response": "answer"}
    (sample,) = tokenize_rows([row], tokenizer, "chat", 120)
    text = tokenizer.decode(sample["input_ids"])
    assert len(sample["input_ids"]) == 120
    assert text.startswith("<|im_start|>system\nYou are")
    assert text.endswith("LAST<|im_end|>\n<|im_start|>assistant\nanswer<|im_end|>\n")
    (whole,) = tokenize_rows([row], tokenizer, "chat", 400)
    assert tokenizer.decode(whole["input_ids"]).count("q") == 200
