"""The sections `model` and `lora`: each option reaches the model, and rows stay exact."""

from __future__ import annotations

import json
import math

import pytest
import torch
from chat_templates import tokenizer_of
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from peft.tuners.lora import LoraLayer
from running import error_of, run
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning.finetune import models
from influcoder_lightning.run.base_model import lora_model
from influcoder_lightning.run.settings import resolved


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizer_of("chatml")
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    rows = [{"prompt": f"Say {word}.", "response": word * 2} for word in ("red", "blue", "green")]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def built(model, *options):
    GlobalHydra.instance().clear()
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=[f"model.name={model}", *options])
    return lora_model(resolved(cfg))


def layers(built):
    return {name: m for name, m in built.named_modules() if isinstance(m, LoraLayer)}


def kinds(built):
    return {type(module.base_layer).__name__ for module in layers(built).values()}


OPTIONS = {
    "model.dtype=bfloat16": lambda m: m.get_base_model().lm_head.weight.dtype == torch.bfloat16,
    "model.gradient_checkpointing=true": lambda m: m.is_gradient_checkpointing,
    "model.attn_implementation=eager": lambda m: m.config._attn_implementation == "eager",
    "model.quantization=4bit": lambda m: kinds(m) == {"Linear4bit"},
    "model.quantization=8bit": lambda m: kinds(m) == {"Linear8bitLt"},
    "lora.lora_alpha=4": lambda m: {x.scaling["default"] for x in layers(m).values()} == {0.5},
    "lora.lora_dropout=0.5": lambda m: all(
        isinstance(x.lora_dropout["default"], torch.nn.Dropout) for x in layers(m).values()
    ),
    "lora.exclude_modules=[q_proj]": lambda m: not any("q_proj" in name for name in layers(m)),
    "lora.layers_to_transform=[1]|lora.target_modules=[q_proj]": lambda m: all(
        ".1." in name for name in layers(m)
    ),
    "lora.rank_pattern={q_proj: 2}": lambda m: {
        module.r["default"] for name, module in layers(m).items() if "q_proj" in name
    } == {2},
    "lora.alpha_pattern={q_proj: 4}": lambda m: {
        module.scaling["default"] for name, module in layers(m).items() if "q_proj" in name
    } == {0.5},
    "lora.use_rslora=true": lambda m: {
        round(module.scaling["default"], 6) for module in layers(m).values()
    } == {round(16 / math.sqrt(8), 6)},
    "lora.use_dora=true": lambda m: all(
        module.use_dora["default"] for module in layers(m).values()
    ),
    "lora.lora_bias=true": lambda m: all(
        module.lora_B["default"].bias is not None for module in layers(m).values()
    ),
    "lora.init_lora_weights=pissa": lambda m: all(
        module.lora_B["default"].weight.any() for module in layers(m).values()
    ),
    "lora.init_lora_weights=olora": lambda m: all(
        module.lora_B["default"].weight.any() for module in layers(m).values()
    ),
    "lora.modules_to_save=[lm_head]": lambda m: any(
        "lm_head" in name for name, weight in m.named_parameters() if weight.requires_grad
    ),
    "lora.bias=all": lambda m: m.peft_config["default"].bias == "all",
    "lora.init_lora_weights=orthogonal": lambda m: all(
        module.lora_B["default"].weight.any() for module in layers(m).values()
    ),
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_reaches_the_model(model, option):
    assert OPTIONS[option](built(model, *option.split("|")))
    assert not OPTIONS[option](built(model))


ARITHMETIC = [
    "model.dtype=bfloat16", "model.quantization=4bit", "model.quantization=8bit",
    "lora.use_dora=true", "lora.use_rslora=true", "lora.lora_bias=true",
    "lora.init_lora_weights=pissa", "lora.init_lora_weights=olora",
    "lora.modules_to_save=[lm_head]",
    "lora.rank_pattern={q_proj: 2}",
]  # fmt: skip


@pytest.mark.parametrize("option", ARITHMETIC)
def test_rows_are_those_of_plain_autograd(model, tmp_path, option):
    run(
        "verify", tmp_path / "out", f"model.name={model}", f"data.pool={model}/pool.jsonl",
        *option.split("|"), "n=3", "lora.r=8",
    )  # fmt: skip
    ways = json.loads((tmp_path / "out" / "verify.json").read_text())["ways"]
    assert any(way["error"] is not None for way in ways)
    most = 2e-2 if "bfloat16" in option or "8bit" in option else 1e-4
    assert all(way["error"] <= most for way in ways if way["error"] is not None), ways


def test_a_model_in_bfloat16_is_valued_to_the_end(model, tmp_path):
    run(
        "valuate", tmp_path / "out", f"model.name={model}", f"data.pool={model}/pool.jsonl",
        "model.dtype=bfloat16", "train.batch_size=2", "rank.method=self",
        "model.gradient_checkpointing=true", "influence.sketch_dim=64", "influence.code_dim=8",
    )  # fmt: skip
    assert (tmp_path / "out" / "ranking.csv").is_file()


def test_trainings_go_on_from_a_trained_adapter(model, tmp_path):
    rows = [f"model.name={model}", f"data.pool={model}/pool.jsonl", "train.batch_size=2"]
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Say grey.", "response": "greygrey"}\n')
    measured = [*rows, f"data.eval={other}"]
    run("retrain", tmp_path / "first", *measured, "train.steps=3", "train.lr=0.01")
    first = json.loads((tmp_path / "first" / "metrics.json").read_text())["eval_loss"]
    adapter = f"model.adapter={tmp_path / 'first' / 'adapter'}"
    run("retrain", tmp_path / "still", *measured, adapter, "train.steps=2", "train.lr=0")
    still = json.loads((tmp_path / "still" / "metrics.json").read_text())["eval_loss"]
    assert still["before"] == pytest.approx(first["after"], abs=1e-6)
    assert still["after"] == pytest.approx(first["after"], abs=1e-6)
    small = ["influence.sketch_dim=64", "influence.code_dim=8", "rank.method=self"]
    run("valuate", tmp_path / "valued", *rows, adapter, *small, "train.steps=2")
    began = tmp_path / "valued" / "influence" / "adapters" / "window_00000"
    folders = (began, tmp_path / "first" / "adapter")
    weights = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    torch.testing.assert_close(*weights)


def test_a_quantised_base_without_its_library_says_what_to_install(
    model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    given = [f"model.name={model}", f"data.pool={model}/pool.jsonl", "rank.method=self"]
    said = error_of(capsys, "valuate", tmp_path / "a", *given, "model.quantization=4bit")
    assert "pip install 'influcoder-lightning[hf]'" in said


def test_what_a_model_cannot_do_is_said_in_a_line(model, tmp_path, capsys):
    given = [f"model.name={model}", f"data.pool={model}/pool.jsonl", "rank.method=self"]
    said = error_of(capsys, "valuate", tmp_path / "a", *given, "model.attn_implementation=nonsense")
    assert "nonsense" in said
    said = error_of(capsys, "valuate", tmp_path / "b", *given, "model.dtype=int3")
    assert "float32" in said
