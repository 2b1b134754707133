"""A GGUF file as ``model.name``: the model and the tokenizer that were written into it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_templates import tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning import write_jsonl
from influcoder_lightning.finetune.models import load_base_model, load_tokenizer

gguf = pytest.importorskip("gguf")
HEADS = 2
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def turned(weight: np.ndarray) -> np.ndarray:
    """Rows in the order that llama.cpp's rotary embedding wants."""
    half = weight.shape[0] // HEADS // 2
    return weight.reshape(HEADS, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def write(path: Path) -> LlamaForCausalLM:
    tokenizer = tokenizer_of("chatml")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=128,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    file = gguf.GGUFWriter(str(path), "llama")
    file.add_context_length(128)
    file.add_embedding_length(32)
    file.add_block_count(1)
    file.add_feed_forward_length(32)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(16)
    file.add_vocab_size(len(tokenizer))
    texts = [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    file.add_tokenizer_model("gpt2")
    file.add_token_list(texts)
    file.add_token_types([3 if text in tokenizer.all_special_tokens else 1 for text in texts])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    file.add_token_merges([" ".join(pair) for pair in merges] or ["a b"])
    for add in (file.add_eos_token_id, file.add_bos_token_id, file.add_pad_token_id):
        add(tokenizer.eos_token_id)
    file.add_chat_template(tokenizer.chat_template)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = weight.numpy()
        if "q_proj" in name or "k_proj" in name:
            values = turned(values)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        file.add_tensor(name, np.ascontiguousarray(values))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return model.eval()


def test_weights_tokens_and_template_are_those_of_the_file(tmp_path, capsys):
    model = write(tmp_path / "tiny.gguf")
    name = str(tmp_path / "tiny.gguf")
    tokenizer, expected = load_tokenizer(name), tokenizer_of("chatml")
    assert tokenizer("Say red.")["input_ids"] == expected("Say red.")["input_ids"]
    assert tokenizer.chat_template == expected.chat_template
    loaded = load_base_model(name)
    ids = torch.tensor([tokenizer("Say red.")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert "de-quantizing" not in capsys.readouterr().err


def test_a_gguf_file_is_valued_to_the_end(tmp_path):
    from running import run

    write(tmp_path / "tiny.gguf")
    rows = [{"prompt": f"Say {word}.", "response": word * 2} for word in ("red", "blue")]
    write_jsonl(rows, tmp_path / "pool.jsonl")
    run(
        "valuate", tmp_path / "run", f"model.name={tmp_path / 'tiny.gguf'}",
        f"data.pool={tmp_path / 'pool.jsonl'}", "rank.method=self", "influence.sketch_dim=64",
        "influence.code_dim=8",
    )  # fmt: skip
    assert (tmp_path / "run" / "ranking.csv").is_file()
