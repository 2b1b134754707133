"""Influcoder as published: a sentence encoder that learns to rank samples as gradients do.

Queries carry an instruction prefix; a step takes a block of queries and candidates and lowers
``alpha (1 - Pearson) + (1 - alpha) KL`` against the gradient cosines of the block. A share of the
candidates of each block are hard negatives: samples that the encoder, before training, puts nearer
to a query of the block than their gradients are. Source: arXiv 2606.13668.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.objective import ranking_loss
from influcoder_lightning.encoder.sentence_tower import joined
from influcoder_lightning.random_streams import streams_kept

_HARD = 64  # hardest samples of each query to draw from


@dataclass(frozen=True)
class DistillationSettings:
    """The published recipe.

    Attributes:
        epochs: passes over the pool.
        queries: of a block.
        candidates: of a block.
        lr: AdamW, after ``warmup`` (share of all steps) and before the linear decay to zero.
        weight_decay: of AdamW.
        alpha: weight of the Pearson term.
        temperature: of the softmaxes.
        hard_negatives: share of the candidates that are hard negatives.
        query_prefix: instruction in front of queries.
        max_tokens: of a text; None: as many as the encoder takes.
        bf16: autocast to bfloat16.
    """

    epochs: int = 8
    queries: int = 8
    candidates: int = 16
    lr: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    alpha: float = 0.5
    temperature: float = 0.05
    hard_negatives: float = 0.5
    query_prefix: str = "Instruct: find training samples that teach this behaviour\nQuery: "
    max_tokens: int | None = None
    bf16: bool = True


class Distillation:
    """Trains a ``SentenceTransformer`` in place.

    Args:
        encoder: the model.
        settings: the recipe.
        seed: of blocks and dropout.
    """

    def __init__(self, encoder: Any, settings: DistillationSettings, seed: int = 0) -> None:
        self.encoder, self.settings, self._seed = encoder, settings, seed
        if settings.max_tokens is not None:
            encoder.max_seq_length = min(settings.max_tokens, encoder.max_seq_length)

    def fit(
        self,
        queries: Sequence[TextRow],
        pool: Sequence[TextRow],
        targets: np.ndarray,
        after_epoch: Callable[[int], object],
    ) -> None:
        """Distil the cosines ``targets`` [Q, N]; ``after_epoch(number)`` runs after each epoch."""
        s = self.settings
        draw = random.Random(self._seed)
        per_epoch = -(-len(pool) // s.candidates)
        total = s.epochs * per_epoch
        optimizer = torch.optim.AdamW(
            self.encoder.parameters(), lr=s.lr, weight_decay=s.weight_decay
        )
        schedule = LambdaLR(optimizer, lambda step: _linear(step, total, s.warmup))
        n_hard = round(s.hard_negatives * s.candidates)
        hard = self._hard_negatives(queries, pool, targets) if n_hard else None
        with streams_kept():
            torch.manual_seed(self._seed)
            for epoch in range(s.epochs):
                order = draw.sample(range(len(pool)), len(pool))
                for start in range(0, len(order), s.candidates):
                    asked = draw.sample(range(len(queries)), min(s.queries, len(queries)))
                    block = order[start : start + s.candidates]
                    if hard is not None:
                        block = self._with_hard(block, asked, hard, n_hard, draw)
                    if len(block) < 2:
                        continue
                    self._step(
                        [queries[i] for i in asked],
                        [pool[i] for i in block],
                        torch.from_numpy(targets[np.ix_(asked, block)]).float(),
                        optimizer,
                    )
                    schedule.step()
                after_epoch(epoch + 1)

    def scores(self, queries: Sequence[TextRow], samples: Sequence[TextRow]) -> np.ndarray:
        """Cosines [M, N] float32 of encoded queries and samples."""
        asked = self.embed([self.settings.query_prefix + joined(text) for text in queries])
        return np.asarray(asked @ self.embed([joined(text) for text in samples]).T)

    def _step(
        self,
        queries: list[TextRow],
        samples: list[TextRow],
        targets: Tensor,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.encoder.train()
        texts = [self.settings.query_prefix + joined(text) for text in queries]
        texts += [joined(text) for text in samples]
        inputs = self.encoder.preprocess(texts)
        device = self.encoder.device
        inputs = {k: v.to(device) for k, v in inputs.items() if isinstance(v, Tensor)}
        with torch.enable_grad():
            with self._autocast():
                embedded = self.encoder(inputs)["sentence_embedding"]
            unit = functional.normalize(embedded.float(), dim=1)
            scores = unit[: len(queries)] @ unit[len(queries) :].T
            s = self.settings
            loss = ranking_loss(scores, targets.to(device), s.alpha, s.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
            optimizer.step()

    def embed(self, texts: list[str]) -> np.ndarray:
        """Unit embeddings [n, e] float32 as the encoder stands."""
        self.encoder.eval()
        with self._autocast():
            embedded = self.encoder.encode(
                texts,
                batch_size=32,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_tensor=True,
            )
        return np.asarray(embedded.float().cpu().numpy())

    def _autocast(self) -> torch.autocast:
        device = self.encoder.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.settings.bf16)

    def _hard_negatives(
        self, queries: Sequence[TextRow], pool: Sequence[TextRow], targets: np.ndarray
    ) -> np.ndarray:
        excess = self.scores(queries, pool) - targets
        return np.argsort(-excess, axis=1, kind="stable")[:, :_HARD]

    @staticmethod
    def _with_hard(
        block: list[int], asked: list[int], hard: np.ndarray, n_hard: int, draw: random.Random
    ) -> list[int]:
        kept = block[: max(1, len(block) - n_hard)]
        chosen = set(kept)
        candidates = [int(i) for q in asked for i in hard[q] if int(i) not in chosen]
        unique = sorted(set(candidates))
        return kept + draw.sample(unique, min(n_hard, len(unique)))


def _linear(step: int, total: int, warmup: float) -> float:
    rise = max(1, round(warmup * total))
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (total - step) / max(1, total - rise))
