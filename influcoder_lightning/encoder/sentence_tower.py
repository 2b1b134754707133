"""The fine-tuned half of the text tower: a stock sentence-transformers model.

Transformer -> Pooling -> Dense, so that plain ``SentenceTransformer(folder)`` opens what is saved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.objective import ranking_loss
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.models import refuse_missing_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

WARMUP_STEPS = 20


def load_sentence_encoder(source: str | Path | SentenceTransformer) -> Any:
    """A ``SentenceTransformer`` from a hub name or a folder, or a copy of the given one.

    Raises:
        ConfigError: sentence-transformers is not installed, or nothing loads from ``source``.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError(
            "`text_encoder` needs sentence-transformers: pip install 'influcoder-lightning[text]'."
        ) from error
    if isinstance(source, SentenceTransformer):
        return copy.deepcopy(source)
    refuse_missing_folder(str(source), "text_encoder")
    try:
        return SentenceTransformer(str(source), device="cpu", trust_remote_code=False)
    except Exception as error:
        raise ConfigError(
            f"`text_encoder={str(source)!r}` is no sentence-transformers model (a hub name or a "
            f"local folder): {error}"
        ) from error


class SentenceTower:
    """Co-trains a sentence encoder so that texts land near their gradient codes.

    Args:
        encoder: a ``SentenceTransformer``; a new Dense layer to ``code_dim`` is put behind it.
        code_dim: width d of the codes.
        learning_rate: AdamW, of the encoder; the new layer learns 20 times faster.
    """

    def __init__(self, encoder: Any, code_dim: int, learning_rate: float = 5e-5) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense

        width = encoder.get_embedding_dimension()
        self.dense = Dense(width, code_dim, bias=True, activation_function=nn.Identity())
        self.dense.to(next(encoder.parameters()).dtype)  # not the training's default dtype
        # Work on the trunk's modules without its final Normalize, which would scale nothing.
        trunk = [m for m in encoder if type(m).__name__ != "Normalize"]
        self.model = SentenceTransformer(modules=[*trunk, self.dense], device=str(encoder.device))
        head = {id(p) for p in self.dense.parameters()}
        body = [p for p in self.model.parameters() if id(p) not in head]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": body, "lr": learning_rate},
                {"params": list(self.dense.parameters()), "lr": 20 * learning_rate},
            ],
            weight_decay=0.01,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS)
        )

    def step(
        self, texts: Sequence[TextRow], codes: Tensor, anchors: Tensor, targets: Tensor
    ) -> float:
        """One step on a block: order the samples as ``targets`` and land near their codes.

        Args:
            texts: n samples.
            codes: [n, d] their gradient codes.
            anchors: [q, d] gradient codes of the queries.
            targets: [q, n] gradient cosines of the block.

        Returns:
            The loss of the block.
        """
        self.model.train()
        with torch.enable_grad():
            features = self.model.preprocess([joined(text) for text in texts])
            features = {
                k: v.to(self.model.device) for k, v in features.items() if isinstance(v, Tensor)
            }
            predicted = functional.normalize(self.model(features)["sentence_embedding"], dim=1)
            device = predicted.device
            codes, anchors, targets = codes.to(device), anchors.to(device), targets.to(device)
            loss = ranking_loss(anchors @ predicted.T, targets)
            loss = loss + (1 - (predicted * codes).sum(1)).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self._schedule.step()
        return float(loss.detach())

    def encode(self, texts: Sequence[TextRow]) -> np.ndarray:
        """Predicted codes [n, d] float32, L2-normalised."""
        return encode_texts(self.model, texts)

    def state(self) -> dict[str, object]:
        """State dicts of model, optimizer and schedule, for `restore`."""
        schedule = {"last_epoch": self._schedule.last_epoch}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": schedule,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.last_epoch = state["schedule"]["last_epoch"]

    def save(self, folder: Path) -> None:
        """Write a folder that plain ``SentenceTransformer(folder)`` opens."""
        self.model.save(str(folder), create_model_card=False)


def encode_texts(model: SentenceTransformer, texts: Sequence[TextRow]) -> np.ndarray:
    """[n, d] float32 L2-normalised embeddings of the joined texts."""
    model.eval()
    return np.asarray(
        model.encode(
            [joined(text) for text in texts],
            batch_size=32,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        ),
        dtype=np.float32,
    )


def joined(text: TextRow) -> str:
    """The text a sentence encoder sees: response first, since encoders cut at the end."""
    return f"{text['response']}\n{text['prompt']}"
