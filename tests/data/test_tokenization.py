import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import collate_samples, default_template, tokenize_rows
from influcoder_lightning.data.template import Template
from influcoder_lightning.data.tiny_model import build_tokenizer
from influcoder_lightning.errors import ConfigError, DataError

TEMPLATE = "<s>### Instruction:\n{prompt}\n### Response:\n{response}</s>"
BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["### Instruction:\nsay one two three\n### Response:\none two three"] * 3
    return build_tokenizer(texts, 300, tmp_path_factory.mktemp("tokenizer"))


def row(prompt, response, **more):
    return {"prompt": prompt, "response": response, **more}


def parts(sample):
    """(context ids, response ids) of a sample."""
    ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
    n = labels.count(-100)
    assert labels == [-100] * n + ids[n:]
    assert sample["attention_mask"].tolist() == [1] * len(ids)
    return ids[:n], ids[n:]


@pytest.mark.parametrize(
    "text",
    ["{prompt}", "{response}", "{response}{prompt}", "{prompt}{prompt}{response}", "x",
     "{prompt}{response}{response}"],
)  # fmt: skip
def test_templates_need_both_slots_once_in_order(text):
    with pytest.raises(ConfigError, match="template needs"):
        Template(text)


def test_braces_elsewhere_are_text():
    template = Template('{"a": {0}} {prompt} {} {response} {end}')
    assert template.prefix == '{"a": {0}} '
    assert template.middle == " {} "
    assert template.suffix == " {end}"
    rendered = template.render("{response} {0} {prompt}", "{x}")
    assert rendered == '{"a": {0}} {response} {0} {prompt} {} {x} {end}'


def test_the_default_template_is_framed_by_the_tokenizers_tokens(tokenizer):
    assert default_template(tokenizer) == Template(TEMPLATE)


def test_loss_is_on_response_and_end_token_only(tokenizer):
    dataset = tokenize_rows([row("say one", "one")], tokenizer, TEMPLATE, 64)
    context, response = parts(dataset[0])
    assert context == tokenizer("<s>### Instruction:\nsay one\n### Response:\n")["input_ids"]
    assert response == [*tokenizer("one")["input_ids"], EOS]
    assert dataset[0]["prompt"] == "say one"
    assert dataset[0]["response"] == "one"
    assert dataset.report.n_response_tokens == len(response)
    assert dataset.report.n_prompts_truncated == dataset.report.n_responses_truncated == 0


def test_ids_come_from_the_rows_or_the_caller(tokenizer):
    rows = [row("a", "b", id="x"), row("c", "d")]
    assert [s["sample_id"] for s in tokenize_rows(rows, tokenizer, TEMPLATE, 64)] == ["x", "1"]
    given_ids = tokenize_rows(rows, tokenizer, TEMPLATE, 64, ids=[8, 9])
    assert given_ids.sample_ids == [8, 9]
    with pytest.raises(DataError, match="1 ids for 2 rows"):
        tokenize_rows(rows, tokenizer, TEMPLATE, 64, ids=[8])


def test_a_long_response_loses_its_end_and_a_long_prompt_its_head(tokenizer):
    rows = [row("one two three " * 30 + "LAST", "one two three " * 30), row("say", "one")]
    dataset = tokenize_rows(rows, tokenizer, TEMPLATE, 80)
    context, response = parts(dataset[0])
    assert len(context) == len(response) == 40
    assert EOS not in response
    assert tokenizer.decode(context).startswith("<s>### Instruction:\n")
    assert tokenizer.decode(context).endswith("LAST\n### Response:\n")
    report = dataset.report
    assert (report.n_prompts_truncated, report.n_responses_truncated) == (1, 1)
    assert "1 prompts lost their head and 1 responses their end" in report.summary()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            row,
            st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        ),
        min_size=1,
        max_size=4,
    ),
    max_length=st.integers(64, 120),
)
def test_every_sample_fits_and_keeps_its_response(tokenizer, rows, max_length):
    dataset = tokenize_rows(rows, tokenizer, TEMPLATE, max_length)
    prefix = tokenizer("<s>### Instruction:\n", add_special_tokens=False)["input_ids"]
    whole = 0
    for sample, source in zip(dataset, rows, strict=True):
        context, response = parts(sample)
        assert len(context) + len(response) <= max_length
        assert response
        assert context[0] == BOS
        assert context.count(BOS) == 1
        if len(context) + len(response) == max_length:
            assert context[: len(prefix)] == prefix
        if response[-1] != EOS:
            assert len(response) == max_length - max_length // 2
        else:
            whole += 1
            assert tokenizer.decode(response[:-1]) == source["response"]
    assert dataset.report.n_responses_truncated == len(rows) - whole
    assert dataset.report.n_response_tokens == sum(len(parts(s)[1]) for s in dataset)


@pytest.mark.parametrize(
    ("prompt", "response"),
    [("a</s>b<s>", "c</s>d"), ("<pad>", "<s>"), ("a <", "s> </s"), ("{response}", "{prompt}")],
)
def test_special_tokens_in_the_text_stay_text(tokenizer, prompt, response):
    rows = [row("plain", "text"), row(prompt, response)]
    plain, spelled = tokenize_rows(rows, tokenizer, TEMPLATE, 200)
    context, answer = parts(spelled)
    assert [i for i in context if i <= EOS] == [BOS]
    assert [i for i in answer if i <= EOS] == [EOS]
    frame = f"<s>### Instruction:\n{prompt}\n### Response:\n{response}</s>"
    assert tokenizer.decode(context + answer) == frame
    assert torch.equal(tokenize_rows(rows[:1], tokenizer, TEMPLATE, 200)[0]["labels"],
                       plain["labels"])  # fmt: skip


def test_text_and_frame_together_spell_no_special_token(tokenizer):
    sample = tokenize_rows([row("/s>x<", "y")], tokenizer, "<{prompt}/s>{response}", 200)[0]
    assert min(parts(sample)[0]) > EOS


def test_special_tokens_inside_the_middle_are_kept(tokenizer):
    template = "<s>{prompt}</s>\n<s>{response}</s>"
    sample = tokenize_rows([row("a</s>", "b")], tokenizer, template, 100)[0]
    context, _ = parts(sample)
    assert [i for i in context if i <= EOS] == [BOS, EOS, BOS]


def test_nothing_left_to_learn_is_an_error(tokenizer):
    with pytest.raises(DataError, match="all responses truncated away"):
        tokenize_rows([row("a", "b")], tokenizer, TEMPLATE, 1)
    with pytest.raises(DataError, match="all responses truncated away"):
        tokenize_rows([row("a", "")], tokenizer, "{prompt} {response}", 50)
    with pytest.raises(DataError, match="all responses truncated away"):
        tokenize_rows([row("a", "b")], tokenizer, TEMPLATE, 4)
    with pytest.raises(DataError, match="no rows"):
        tokenize_rows([], tokenizer, TEMPLATE, 4)


def test_rows_without_response_tokens_are_counted(tokenizer):
    rows = [row("a", ""), row("b", "one")]
    report = tokenize_rows(rows, tokenizer, "{prompt} {response}", 50).report
    assert report.n_without_response == 1
    assert "1 rows have no response token" in report.summary()
    # The first token of all has nothing before it, so that it has no loss.
    assert tokenize_rows([row("", "12")], tokenizer, "{prompt}{response}", 50
                         ).report.n_response_tokens == 1  # fmt: skip


@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_are_padded_and_keep_ids_and_texts(tokenizer, side):
    rows = [row("say one", "one"), row("say one two three", "one two three")]
    dataset = tokenize_rows(rows, tokenizer, TEMPLATE, 64)
    collate = pickle.loads(pickle.dumps(collate_samples(tokenizer.pad_token_id, side)))
    batch = collate([dataset[0], dataset[1]])
    n = len(dataset[0]["input_ids"])
    used = slice(None, n) if side == "right" else slice(-n, None)
    rest = slice(n, None) if side == "right" else slice(None, -n)
    for key, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
        assert torch.equal(batch[key][0, used], dataset[0][key])
        assert (batch[key][0, rest] == fill).all()
        assert torch.equal(batch[key][1], dataset[1][key])
    assert batch["sample_id"].tolist() == [0, 1]
    assert batch["prompt"] == ["say one", "say one two three"]
    assert batch["response"] == ["one", "one two three"]


def test_padding_needs_a_token_and_a_side():
    with pytest.raises(ConfigError, match="no pad token"):
        collate_samples(None)
    with pytest.raises(ConfigError, match="padding_side"):
        collate_samples(0, "top")
