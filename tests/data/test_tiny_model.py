import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from influcoder_lightning import default_template, tokenize_rows
from influcoder_lightning.data.skills import make_skill_data
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer, pretrain
from influcoder_lightning.errors import ConfigError


@pytest.fixture(scope="module")
def rows():
    return make_skill_data(0, n_pretrain=200).pretrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer([row["prompt"] for row in rows], 320, folder)
    build_tiny_llama(folder, tokenizer, hidden_size=32, layers=1, heads=2)
    return folder


def test_folder_opens_with_the_auto_classes(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>"]) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert (folder / "model.safetensors").is_file()
    text = "W\u00f6rter: \U0001f600 12\n\tx"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_tokenizer_is_the_same_every_time(folder, rows, tmp_path):
    build_tokenizer([row["prompt"] for row in rows], 320, tmp_path)
    first, second = (json.loads((f / "tokenizer.json").read_text()) for f in (folder, tmp_path))
    assert first == second
    with pytest.raises(ConfigError, match="256 bytes"):
        build_tokenizer(["x"], 100, tmp_path)


def test_weights_depend_on_the_seed_only(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = torch.get_rng_state()
    first, again, other = (
        build_tiny_llama(tmp_path, tokenizer, hidden_size=32, layers=1, heads=2, seed=seed)
        for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_pretraining_learns_and_repeats(folder, rows):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dataset = tokenize_rows(rows, tokenizer, default_template(tokenizer), 128)

    def run(steps, **options):
        model = AutoModelForCausalLM.from_pretrained(folder)
        return pretrain(model, dataset, steps=steps, **({"batch_size": 16} | options))

    seen = []
    short, long = run(2), run(40, progress=lambda step, steps: seen.append((step, steps)))
    assert seen == [(step, 40) for step in range(1, 41)]
    assert long < short - 1
    assert run(2) == short
    assert run(2, seed=1) != short
    with pytest.raises(ConfigError, match="Lower the batch size"):
        run(1, batch_size=1000)
