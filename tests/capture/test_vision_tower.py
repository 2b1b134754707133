"""LoRA on a vision tower: images are samples only where every sample has equally many."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from capturing import assert_rows_equal_oracle, captured
from conftest import FineTuning
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from torch.utils.data import DataLoader, default_collate

from influcoder_lightning import collate_with_sample_ids, with_sample_ids
from influcoder_lightning.errors import CaptureError

IMAGE, VOCAB, PATCHES, LENGTH = 1, 61, 4, 16
TOWERS = {
    "language model": r".*language_model.*(q_proj|v_proj)",
    "all": r".*(q_proj|v_proj|linear_1|linear_2)",
}


def llava(targets):
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(
        **shared, num_hidden_layers=2, image_size=8, patch_size=4
    )
    text = transformers.LlamaConfig(**shared, vocab_size=VOCAB, num_hidden_layers=2)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1
    )
    base = transformers.LlavaForConditionalGeneration(config)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=TOWERS[targets]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def samples(images):
    """One sample for each number of images."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for n in images:
        text = torch.randint(4, VOCAB, (LENGTH - n * PATCHES,), generator=generator)
        ids = torch.cat([torch.full((n * PATCHES,), IMAGE), text])
        labels = torch.where(torch.arange(LENGTH) < 12, -100, ids)
        pixels = torch.randn(n, 3, 8, 8, generator=generator)
        rows.append({"input_ids": ids, "labels": labels, "pixel_values": pixels})
    return rows


def collate(rows):
    """The images of all samples one after the other, as processors give them."""
    tokens = default_collate([{k: r[k] for k in ("input_ids", "labels")} for r in rows])
    return {**tokens, "pixel_values": torch.cat([row["pixel_values"] for row in rows])}


class Seeing(FineTuning):
    def training_step(self, batch, batch_idx):
        names = ("input_ids", "labels", "pixel_values")
        return self.model(**{name: batch[name] for name in names}).loss


def oracle(model, row):
    model.zero_grad(set_to_none=True)
    pixels = row["pixel_values"] if len(row["pixel_values"]) else None
    logits = model(input_ids=row["input_ids"][None], pixel_values=pixels).logits
    functional.cross_entropy(logits[0, :-1], row["labels"][1:]).backward()
    return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if ".lora_" in n])


def fit(folder, model, rows):
    data = DataLoader(
        with_sample_ids(rows), batch_size=len(rows), collate_fn=collate_with_sample_ids(collate)
    )
    return captured(folder, Seeing(model), data)


@pytest.mark.parametrize(
    ("targets", "images"),
    [("all", (1, 1, 1)), ("all", (2, 2)), ("language model", (2, 1, 0))],
    ids=["one each", "two each", "uneven, language model"],
)
def test_rows_are_exact(tmp_path, targets, images):
    model, rows = llava(targets), samples(images)
    before = copy.deepcopy(model)
    assert_rows_equal_oracle(fit(tmp_path, model, rows), before, rows, oracle=oracle)


def test_as_many_images_as_samples_are_not_taken_for_the_samples(tmp_path):
    with pytest.raises(CaptureError, match="reads images"):
        fit(tmp_path, llava("all"), samples((2, 0, 1)))
