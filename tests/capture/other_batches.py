"""Models and batches that are not the usual dict of a causal language model's tokens."""

from __future__ import annotations

import torch
from conftest import VOCAB, FineTuning
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
IMAGE = 1  # the token that stands for a patch


def adapted(base, targets, task=None):
    """``base`` with a LoRA whose B is not zero, in eval mode."""
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=targets, task_type=task))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def bert(kind, **options):
    torch.manual_seed(0)
    config = BertConfig(**SMALL, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **options)
    return kind(config)


def llava():
    """A vision-language model with a LoRA on its language model."""
    torch.manual_seed(0)
    sizes = {key: SMALL[key] for key in SMALL if key != "vocab_size"}
    vision = CLIPVisionConfig(**sizes, image_size=8, patch_size=4)
    text = LlamaConfig(**SMALL, num_key_value_heads=1, max_position_embeddings=64)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    config.vision_feature_layer = -1
    base = LlavaForConditionalGeneration(config)
    return adapted(base, r".*language_model.*(q_proj|v_proj|up_proj)")


def image_rows(n, seed=0):
    """Samples of four image tokens, a prompt and a response, each with its own image."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        words = torch.randint(4, VOCAB, (9,), generator=generator)
        ids = torch.cat([torch.full((4,), IMAGE), words])
        labels = torch.where(torch.arange(13) < 8, -100, ids)
        pixels = torch.randn(3, 8, 8, generator=generator)
        mask = torch.ones_like(ids)
        row = {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}
        rows.append(row)
    return rows


def gradient_of(model, loss):
    """The LoRA gradient of ``loss``, layer by layer, A before B: what a row must be."""
    weights = [
        part[layer.active_adapters[0]].weight
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and "lora_" not in name
        for part in (layer.lora_A, layer.lora_B)
        if layer.active_adapters[0] in part
    ]
    weights = [weight for weight in weights if weight.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for w, g in pairs])


class Passing(FineTuning):
    """Hands the whole batch to the model, as many modules do."""

    def training_step(self, batch, batch_idx):
        return self.model(**{k: v for k, v in batch.items() if k != "sample_id"}).loss


class Shifted(FineTuning):
    """Trains on labels that the collate function has shifted."""

    def training_step(self, batch, batch_idx):
        logits = self.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def shifted(rows):
    """The same samples, each label moved to the position that predicts it."""
    return [
        {
            "input_ids": row["input_ids"][:-1],
            "attention_mask": row["attention_mask"][:-1],
            "labels": row["labels"][1:],
        }
        for row in rows
    ]
