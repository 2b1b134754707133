"""A tokenizer and a Llama small enough to be trained in seconds, without any download."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset

from influcoder_lightning.data.tokenization import collate_samples
from influcoder_lightning.errors import ConfigError

if TYPE_CHECKING:
    from transformers import (
        LlamaForCausalLM,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        PreTrainedTokenizerFast,
    )

_PAD, _BOS, _EOS = "<pad>", "<s>", "</s>"


def build_tokenizer(
    texts: Iterable[str], vocab_size: int, folder: str | os.PathLike[str]
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer and save it for ``AutoTokenizer.from_pretrained(folder)``.

    Any text can be encoded; digits stay single. ``<pad>``, ``<s>``, ``</s>`` have the ids 0, 1, 2
    and are never added by themselves.

    Raises:
        ConfigError: When ``vocab_size`` cannot hold the 256 bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 259:
        raise ConfigError(f"vocab_size={vocab_size} cannot hold 256 bytes and 3 special tokens.")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_PAD, _BOS, _EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=_PAD, bos_token=_BOS, eos_token=_EOS
    )
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def build_tiny_llama(
    folder: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden_size: int = 128,
    layers: int = 2,
    heads: int = 4,
    max_positions: int = 512,
    seed: int = 0,
) -> LlamaForCausalLM:
    """A randomly initialised ``LlamaForCausalLM``, float32, saved beside its tokenizer.

    The global random state is left as it was.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
    return model


def pretrain(
    model: PreTrainedModel,
    dataset: Dataset,
    *,
    steps: int = 300,
    batch_size: int = 32,
    lr: float = 5e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Train all parameters with AdamW and a cosine schedule, in place.

    Args:
        model: A causal LM; its ``pad_token_id`` pads.
        dataset: Items as of ``tokenize_rows``.
        steps: Optimizer steps.
        batch_size: Samples per step.
        lr: Peak learning rate, after a linear warm-up of a tenth of the steps.
        seed: Orders the samples.
        progress: Called with (step, steps) after each step.

    Returns:
        The mean response loss of the last tenth of the steps, in nats per token.

    Raises:
        ConfigError: When the rows do not fill one batch.
    """
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=collate_samples(model.config.pad_token_id),
    )
    if not len(loader):
        raise ConfigError(f"fewer rows than batch_size={batch_size}. Lower the batch size.")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup)),
        ],
        milestones=[warmup],
    )
    was_training = model.training
    model.train()
    losses: list[float] = []
    while len(losses) < steps:
        for batch in loader:
            inputs = {
                key: batch[key].to(model.device)
                for key in ("input_ids", "attention_mask", "labels")
            }
            loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(len(losses), steps)
            if len(losses) == steps:
                break
    model.train(was_training)
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)
