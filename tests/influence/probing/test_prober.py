"""In-context probing against a double loop over whole texts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning import rank
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer
from influcoder_lightning.errors import CaptureError, ConfigError, DataError, RankingError
from influcoder_lightning.influence.probing.choose_queries import choose_queries
from influcoder_lightning.influence.probing.prober import InContextProber
from influcoder_lightning.influence.probing.prompts import Prompts

ROWS = [
    {"id": f"s{i}", "prompt": f"say {word} {'again ' * i}", "response": f"{word} it is"}
    for i, word in enumerate(["red", "green", "blue", "one"])
]
LONG = "please answer the question that follows with a single word and nothing else : "
QUERIES = [
    {"prompt": LONG + "the sky", "response": "blue"},
    {"prompt": LONG + "the grass", "response": "green it is"},
    {"prompt": "what", "response": "one two three"},
    {"prompt": LONG + "a rose is", "response": "red"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [f"{row['prompt']} {row['response']}" for row in [*ROWS, *QUERIES]]
    return build_tokenizer(
        [*texts, "Instruction: Response:\n\n"], 300, tmp_path_factory.mktemp("t")
    )


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    return build_tiny_llama(tmp_path_factory.mktemp("m"), tokenizer, hidden_size=32).eval()


def naive(model, start, tokens, n_answer):
    """Mean log-likelihood of the last tokens by one forward pass over everything."""
    ids = torch.tensor([[*start, *tokens]])
    with torch.no_grad():
        logits = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
    total = 0.0
    for at in range(ids.shape[1] - n_answer, ids.shape[1]):
        total += float(logits[at - 1, ids[0, at]])
    return total / n_answer


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_reused_memory_equals_the_double_loop(model, tokenizer, batch_tokens):
    prober = InContextProber(model, tokenizer, QUERIES, batch_tokens=batch_tokens)
    begin = prober.prompts.begin
    for row in [None, *ROWS]:
        start = begin if row is None else begin + prober.prompts.demonstration(row)
        expected = [naive(model, start, q.tokens, q.n_answer) for q in prober.prompts.queries]
        found = prober.zero_shot() if row is None else prober.one_shot(row)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_queries_that_start_alike_share_their_start(model, tokenizer):
    many = [{"prompt": f"{LONG} {LONG} {w}", "response": w} for w in ("red", "blue", "one")] * 4
    prober = InContextProber(model, tokenizer, [*many, QUERIES[2]])
    assert sorted(len(group.prefix) > 20 for group in prober._groups) == [False, True]
    seen = [i for group in prober._groups for batch in group.batches for i in batch]
    assert sorted(seen) == list(range(13))
    expected = [naive(model, prober.prompts.begin, q.tokens, q.n_answer) for q in
                prober.prompts.queries]  # fmt: skip
    np.testing.assert_allclose(prober.zero_shot(), expected, atol=1e-4)


def test_share_and_gain(model, tokenizer):
    options = {"model": model, "tokenizer": tokenizer, "data": ROWS, "queries": QUERIES}
    share, gain = (rank(None, "icp", score=s, **options) for s in ("share", "gain"))
    prober = InContextProber(model, tokenizer, QUERIES)
    zero = prober.zero_shot()
    for i, row in enumerate(ROWS):
        difference = prober.one_shot(row) - zero
        assert share.scores[i] == pytest.approx((difference > 0).mean())
        assert gain.scores[i] == pytest.approx(difference.mean(), abs=1e-5)
    assert share.per_query.shape == (4, 4)
    assert share.metadata["cuts"]["demonstration_prompts"] == 0
    with pytest.raises(RankingError, match="pass model="):
        rank(None, "icp", data=ROWS, queries=QUERIES)
    with pytest.raises(RankingError, match="share, gain"):
        rank(None, "icp", score="other", **options)


def test_modes_and_random_state_are_left_alone(model, tokenizer):
    model.train()
    state = torch.get_rng_state()
    InContextProber(model, tokenizer, QUERIES).one_shot(ROWS[0])
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    model.eval()


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.integers(0, 60),
    response=st.integers(1, 60),
    asked=st.integers(0, 60),
    answer=st.integers(1, 12),
    max_length=st.integers(60, 150),
)
def test_everything_fits_and_no_answer_is_cut(
    tokenizer, prompt, response, asked, answer, max_length
):
    query = {"prompt": "red " * asked, "response": " blue" * answer}
    whole = tokenizer(query["response"], add_special_tokens=False)["input_ids"]
    try:
        prompts = Prompts(tokenizer, [query], max_length)
    except DataError:
        frame = tokenizer("Instruction: \nResponse: ", add_special_tokens=False)["input_ids"]
        assert len(frame) + len(whole) + 1 > max_length // 2
        return
    (encoded,) = prompts.queries
    assert encoded.tokens[-encoded.n_answer :] == whole
    row = {"prompt": "red " * prompt, "response": "blue " * response}
    demonstration = prompts.demonstration(row)
    total = len(prompts.begin) + len(demonstration) + len(encoded.tokens)
    assert total <= max_length
    free = Prompts(tokenizer, [query], 100_000)
    cut = demonstration != free.demonstration(row)
    assert cut == bool(prompts.cuts.demonstration_prompts + prompts.cuts.demonstration_responses)
    assert bool(prompts.cuts.query_prompts) == (encoded != free.queries[0])


def test_what_cannot_work_is_refused(model, tokenizer):
    with pytest.raises(ConfigError, match="at least one query"):
        InContextProber(model, tokenizer, [])
    with pytest.raises(ConfigError, match="beyond the model's 512"):
        InContextProber(model, tokenizer, QUERIES, max_length=513)
    with pytest.raises(DataError, match="query 0: its answer"):
        InContextProber(model, tokenizer, QUERIES, max_length=12)
    with pytest.raises(DataError, match="no answer token"):
        InContextProber(model, tokenizer, [{"prompt": "what", "response": ""}])


def test_a_model_that_forgets_is_refused(tokenizer):
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    with pytest.raises(CaptureError, match="full attention"):
        InContextProber(MistralForCausalLM(config), tokenizer, QUERIES).zero_shot()


def test_queries_are_chosen_one_per_cluster():
    rows = [{"prompt": word, "response": "x"} for word in ("apple pie", "car race", "blue sea")]
    chosen = choose_queries(rows * 5, 3, seed=1)
    assert len({i % 3 for i in chosen}) == 3
    assert choose_queries(rows, 3) == [0, 1, 2]
    assert len(set(choose_queries([rows[0]] * 6, 4))) == 4
    with pytest.raises(ConfigError, match="4 queries cannot"):
        choose_queries(rows, 4)
