"""Models and data of a given shape, without anything to download.

Named shapes have random weights: what a step costs depends on shapes and not on what was learned.
A folder is a real model. All get the LoRA that the benchmarks share (rank 8, every linear).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SIZES += ("num_key_value_heads", "vocab_size")


@dataclass(frozen=True)
class Shape:
    """A decoder: its class and configuration."""

    model: Any
    config: Any

    def build(self, device: torch.device, dtype: torch.dtype) -> Any:
        """With weights N(0, 0.02), norms at 1 and biases at 0: finite losses, in seconds.

        The library's own initialisation takes minutes for billions of weights.
        """
        with torch.device("meta"):
            model = self.model(self.config)
        model = model.to(dtype)
        if device.type == "meta":  # its sizes alone are asked for
            return model
        model = model.to_empty(device=device)
        model.tie_weights()
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.02)
            else:
                torch.nn.init.constant_(weight, float("norm" in name))
        for module in list(model.modules()):
            if hasattr(module, "inv_freq"):  # a buffer that is computed, not stored
                fresh = type(module)(self.config).to(device)
                module.inv_freq = fresh.inv_freq
                module.original_inv_freq = fresh.original_inv_freq
        return model


def llama(*sizes: int, **other: Any) -> Shape:
    """A Llama of these `SIZES`."""
    config = LlamaConfig(**dict(zip(SIZES, sizes, strict=True)), **other)
    return Shape(LlamaForCausalLM, config)


def qwen(*sizes: int) -> Shape:
    """A Qwen2.5 of these `SIZES`."""
    sizes_by_name = dict(zip(SIZES, sizes, strict=True))
    config = Qwen2Config(**sizes_by_name, tie_word_embeddings=True, max_position_embeddings=4096)
    return Shape(Qwen2ForCausalLM, config)


SHAPES = {
    "tiny": llama(128, 512, 4, 4, 4, 1000, max_position_embeddings=2048),
    "0.5b": qwen(896, 4864, 24, 14, 2, 151_936),
    "1.5b": qwen(1536, 8960, 28, 12, 2, 151_936),
    "3b": qwen(2048, 11_008, 36, 16, 2, 151_936),
}


def build(
    shape: str | Shape,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    rank: int = 8,
    warm: bool = False,
) -> Any:
    """A PEFT model in training mode.

    Args:
        shape: a name in `SHAPES`, a folder with a model, or a shape.
        device: where it lives.
        dtype: of the base weights; those of the LoRA stay float32.
        rank: of the LoRA on every linear.
        warm: fill B, which starts at zero; else every gradient of A is zero.
    """
    torch.manual_seed(0)
    kind, place = getattr(torch, dtype), torch.device(device)
    shape = SHAPES.get(shape, shape) if isinstance(shape, str) else shape
    if isinstance(shape, Shape):
        base = shape.build(place, kind)
    elif Path(shape).is_dir():
        base = AutoModelForCausalLM.from_pretrained(
            shape, dtype=kind, local_files_only=True, trust_remote_code=False
        ).to(place)
    else:
        raise SystemExit(f"{shape!r} is neither a folder nor one of {', '.join(SHAPES)}")
    base.config.use_cache = False
    lora = LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).train()
    if warm:
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
    return model


def random_rows(n: int, length: int, vocabulary: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """n samples of ``length`` random tokens, all of them response."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocabulary, (n, length), generator=generator)
    return [{"input_ids": row, "labels": row.clone()} for row in tokens]


def random_texts(n: int, length: int, tokenizer: Any, seed: int = 0) -> list[dict[str, str]]:
    """n texts of exactly ``length`` tokens of a word-piece ``tokenizer``, the frame included.

    Of whole words from its vocabulary; a quarter of them is the prompt.
    """
    words = sorted(w for w in tokenizer.get_vocab() if w.isascii() and w.isalpha() and w.islower())
    draw = random.Random(seed)
    n_words = length - len(tokenizer("")["input_ids"])
    texts = []
    for _ in range(n):
        drawn = draw.choices(words, k=n_words)
        cut = n_words // 4
        texts.append({"prompt": " ".join(drawn[:cut]), "response": " ".join(drawn[cut:])})
    return texts


def device_name(device: str) -> str:
    """What a figure was measured on."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {threads()}"


def threads() -> str:
    """The number of threads in words."""
    n = torch.get_num_threads()
    return "one thread" if n == 1 else f"{n} threads"


def synchronise(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
