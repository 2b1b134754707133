"""What a linear's tensors hold is told by the model's own tokens, not by a first dimension."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from capturing import assert_rows_equal_oracle, captured
from conftest import LENGTH, VOCAB, FineTuning, loader, tokens
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from influcoder_lightning import collate_with_sample_ids, extract_features, with_sample_ids
from influcoder_lightning.errors import CaptureError

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def warm(model):
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def lora(base, targets):
    config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    return warm(get_peft_model(base, config)).eval()


def opt():
    config = transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=16, dropout=0.0,
    )  # fmt: skip
    return lora(transformers.OPTForCausalLM(config), "all-linear")


def mixtral():
    config = transformers.MixtralConfig(**SMALL, num_local_experts=4)
    return lora(transformers.MixtralForCausalLM(config), ATTENTION)


def qwen3_moe():
    config = transformers.Qwen3MoeConfig(**SMALL, **EXPERTS, head_dim=8)
    return lora(transformers.Qwen3MoeForCausalLM(config), ATTENTION)


def gpt_oss():
    config = transformers.GptOssConfig(
        **SMALL, num_local_experts=4, num_experts_per_tok=2, head_dim=8
    )
    return lora(transformers.GptOssForCausalLM(config), ATTENTION)


def qwen2_moe_with_shared_expert():
    config = transformers.Qwen2MoeConfig(**SMALL, **EXPERTS, shared_expert_intermediate_size=8)
    targets = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
    return lora(transformers.Qwen2MoeForCausalLM(config), targets)


@pytest.mark.parametrize(
    "made",
    [opt, mixtral, qwen3_moe, gpt_oss, qwen2_moe_with_shared_expert],
    ids=lambda f: f.__name__,
)
def test_mixtures_and_flattened_linears_are_exact(tmp_path, made):
    torch.manual_seed(0)
    model, rows = made(), tokens(4, seed=81, side="right")
    before = copy.deepcopy(model)
    store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert_rows_equal_oracle(store, before, rows)


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(16, 16)

    def forward(self, x):
        return torch.tanh(self.up(x))


class Mixture(nn.Module):
    """Every token goes to one expert; with ``experts=1`` an expert sees as many as the batch."""

    def __init__(self, experts):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))

    def forward(self, input_ids):
        hidden = self.embed(input_ids).flatten(0, 1)
        chosen = input_ids.flatten() % len(self.experts)
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            places = (chosen == number).nonzero().flatten().flip(0)  # in an order of its own
            out = out.index_put((places,), expert(hidden[places]))
        return self.head(out.view(*input_ids.shape, -1))


class Own(FineTuning):
    def training_step(self, batch, batch_idx):
        logits = self.model(batch["input_ids"])[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


@pytest.mark.parametrize("experts", [1, 3])
def test_the_experts_own_linears_are_refused_by_name(tmp_path, experts):
    model = get_peft_model(Mixture(experts), LoraConfig(r=2, target_modules=["up"]))
    with pytest.raises(CaptureError, match=r"experts.*is an expert of a mixture"):
        captured(tmp_path, Own(model), loader(tokens(4), 4))


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)
        self.mix = nn.Linear(16, 16)

    def forward(self, input_ids):
        hidden = self.embed(input_ids).transpose(0, 1)
        return self.head(torch.tanh(self.mix(hidden)).cumsum(0).transpose(0, 1))


def own_oracle(model, row):
    model.zero_grad(set_to_none=True)
    logits = model(row["input_ids"][None])[0, :-1]
    functional.cross_entropy(logits, row["labels"][1:]).backward()
    return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if ".lora_" in n])


SMALL_BATCH, SQUARE_BATCH = list(range(4)), list(range(4, 4 + LENGTH))


def in_batches(rows, batches):
    return DataLoader(
        with_sample_ids(rows), batch_sampler=batches, collate_fn=collate_with_sample_ids()
    )


def test_sequence_first_modules_are_exact_also_with_as_many_tokens_as_samples(tmp_path):
    torch.manual_seed(0)
    rows = tokens(4 + LENGTH, seed=82)
    model = warm(get_peft_model(SequenceFirst(), LoraConfig(r=2, target_modules=["mix"])))
    before = copy.deepcopy(model)
    batches = in_batches(rows, [SMALL_BATCH, SQUARE_BATCH])
    store = captured(tmp_path, Own(model, rate=0.0), batches, max_steps=2)
    assert len(store) == 4 + LENGTH
    assert_rows_equal_oracle(store, before, rows, oracle=own_oracle)


def test_sequence_first_modules_taken_for_the_other_are_an_error_once_it_is_known(tmp_path):
    model = get_peft_model(SequenceFirst(), LoraConfig(r=2, target_modules=["mix"]))
    batches = in_batches(tokens(4 + LENGTH, seed=82), [SQUARE_BATCH, SMALL_BATCH])
    # The self-check would run the module on single samples first, and so know it from the start.
    with pytest.raises(CaptureError, match=r"runs on \[tokens, batch, features\]"):
        captured(tmp_path, Own(model, rate=0.0), batches, {"sanity_samples": 0}, max_steps=2)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)
        self.mix = nn.Linear(16, 16)

    def forward(self, input_ids):
        return self.head(torch.tanh(self.mix(self.embed(input_ids))).cumsum(1))


@pytest.mark.parametrize("wrapped", [False, True])
def test_adapters_injected_into_any_model_are_found(tmp_path, wrapped):
    torch.manual_seed(0)
    model = warm(inject_adapter_in_model(LoraConfig(r=2, target_modules=["mix"]), Small()))
    before = copy.deepcopy(model)
    module, rows = Own(nn.Sequential(model) if wrapped else model), tokens(4, seed=83)
    store = captured(tmp_path, module, loader(rows, 4))
    assert_rows_equal_oracle(store, before, rows, oracle=own_oracle)


def test_adapters_injected_into_a_transformers_model_are_found(tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"])
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    model, rows = warm(inject_adapter_in_model(config, base)).eval(), tokens(4, seed=84)
    before = copy.deepcopy(model)
    store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert_rows_equal_oracle(store, before, rows)
    options = {"projector": "identity", "co_train": False, "code_dim": 8, "keep_sketches": True}
    frozen = extract_features(before, loader(rows, 2), tmp_path / "frozen", **options)
    assert_rows_equal_oracle(frozen, before, rows)


def test_adapters_of_another_kind_are_named():
    from peft import LoHaConfig

    from influcoder_lightning.capture.layers import find_language_model

    model = get_peft_model(Small(), LoHaConfig(r=2, target_modules=["mix"]))
    with pytest.raises(CaptureError, match=r"adapter layers of kind loha\.Linear"):
        find_language_model(model)
