"""Small models, data and a training module for the tests; nothing is downloaded."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
import warm
from hypothesis import HealthCheck, settings
from lightning.pytorch import LightningModule, Trainer
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from influcoder_lightning import collate_with_sample_ids, with_sample_ids

# No test asserts on time: a machine may be busy. The tests do the same on any day; new examples are
# looked for on purpose, with `--hypothesis-profile=search`.
settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("any day", settings.get_profile("search"), derandomize=True)
settings.load_profile("any day")

VOCAB, LENGTH = 61, 12
torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config)


def tiny_peft(seed: int = 0, warm: bool = True, **lora):
    """A LoRA Llama; ``warm`` gives B values, without which every gradient of A is zero."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(tiny_llama(seed), LoraConfig(**(settings | lora)))
    if warm:
        generator = torch.Generator().manual_seed(seed + 1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def tokens(n: int, seed: int = 0, side: str = "right") -> list[dict[str, torch.Tensor]]:
    """n samples of ragged prompt and response lengths, padded to one length."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        prompt, response = torch.randint(1, 6, (2,), generator=generator).tolist()
        used = prompt + response
        ids = torch.randint(1, VOCAB, (used,), generator=generator)
        labels = ids.clone()
        labels[:prompt] = -100
        pad = (0, LENGTH - used) if side == "right" else (LENGTH - used, 0)
        rows.append(
            {
                "input_ids": torch.nn.functional.pad(ids, pad),
                "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), pad),
                "labels": torch.nn.functional.pad(labels, pad, value=-100),
            }
        )
    return rows


class Samples(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def loader(rows, batch_size: int = 4, **options) -> DataLoader:
    return DataLoader(
        with_sample_ids(Samples(rows)),
        batch_size=batch_size,
        collate_fn=collate_with_sample_ids(),
        **options,
    )


class FineTuning(LightningModule):
    """An existing user's module: it knows nothing of influence."""

    def __init__(self, model=None, rate: float = 1e-2) -> None:
        super().__init__()
        self.model = tiny_peft() if model is None else model
        self.rate = rate
        self.losses: list[float] = []

    def training_step(self, batch, batch_idx):
        output = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
        )
        self.losses.append(float(output.loss.detach()))
        self.log("train_loss", output.loss)
        return output.loss

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=self.rate)


def trainer(folder, callbacks=(), **options) -> Trainer:
    settings = {
        "default_root_dir": folder,
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer(callbacks=list(callbacks), **(settings | options))


def oracle_gradient(model, row, autocast: bool = False) -> torch.Tensor:
    """The flattened LoRA gradient of one sample's own mean response loss, by plain autograd.

    One forward and backward pass for the sample alone, with its padding cut off.
    """
    used = row["attention_mask"].bool()
    ids, labels = row["input_ids"][used][None], row["labels"][used][None]
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, 1:])
    loss.backward()
    parts = []
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "lora_B") and "lora_" not in name:
            adapter = module.active_adapters[0]
            for part in (module.lora_A, module.lora_B):
                if adapter in part and part[adapter].weight.requires_grad:
                    parts += [p.grad.flatten().clone() for p in part[adapter].parameters()]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


def relative_error(value, reference) -> float:
    value, reference = torch.as_tensor(value).double(), torch.as_tensor(reference).double()
    return float((value - reference).norm() / reference.norm())


@pytest.fixture(autouse=True)
def _quiet_lightning():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Found .* in eval mode.*")
        yield


@pytest.fixture(scope="session")
def sentence_encoder():
    """A tiny sentence-transformers model, built from a configuration."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        words = [f"w{i}" for i in range(VOCAB)]
        letters = [chr(c) for c in range(33, 127)]
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words]
        vocabulary += [f"##{c}" for c in letters]
        Path(folder, "vocab.txt").write_text("\n".join(vocabulary))
        tokenizer = BertTokenizerFast(vocab=str(Path(folder, "vocab.txt")))
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
        BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder)
        model = SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu")
    return model


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """The folder of the commands `influcoder` and `python`, see `warm`."""
    folder = tmp_path_factory.mktemp("commands")
    server = warm.start(folder)
    yield folder
    server.kill()
    server.wait()
