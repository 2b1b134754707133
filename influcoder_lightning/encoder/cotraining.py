"""Trains both towers on the rows that stream by.

Kept in memory: the most recent rows (sketch, text, window), bounded in bytes. The gradient tower
follows their sketches; the sentence encoder takes a step on a block of rows of the current window;
the closed-form head is solved once, at the end, onto the last version's codes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.gradient_tower import GradientTower
from influcoder_lightning.encoder.sentence_tower import SentenceTower, load_sentence_encoder
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.encoder.text_tower import TextTower
from influcoder_lightning.files import disk_errors, durable_tree
from influcoder_lightning.ids import SampleId
from influcoder_lightning.random_streams import streams_kept

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FIT_ROWS = 512  # sketches merged into the gradient tower at a time
BLOCK_QUERIES, BLOCK_SAMPLES = 8, 16  # a block of the text tower's objective, as published
RELEARN_GAIN = 0.01  # share of gradient energy a new version must win to be published


@dataclass
class _Row:
    sample_id: SampleId
    window: int
    sketch: Tensor
    text: TextRow | None


def capacity(sketch_dim: int, buffer_bytes: int) -> int:
    """Rows that are kept in memory to learn from."""
    return max(FIT_ROWS, buffer_bytes // (4 * sketch_dim))


class CoTraining:
    """Both towers and the recent rows they learn from.

    Args:
        tower: the gradient tower.
        text_encoder: sentence-transformers model (name, folder or object), or None for a text
            tower of the closed-form head alone.
        buffer_bytes: bound on the sketches kept in memory.
        seed: of the choice of blocks and of the text encoder's dropout.
        tokenizer: of the model; a Hugging Face tokenizer tells the text tower the model's tokens.
    """

    def __init__(
        self,
        tower: GradientTower,
        *,
        text_encoder: str | Path | SentenceTransformer | None,
        buffer_bytes: int,
        seed: int,
        tokenizer: object = None,
    ) -> None:
        self._tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
        self.tower = tower
        self.capacity = capacity(tower.sketch_dim, buffer_bytes)
        self.text_loss = float("nan")
        self._rows: deque[_Row] = deque(maxlen=self.capacity)
        self._unfitted: list[Tensor] = []
        self._queries: Tensor | None = None
        self._random = random.Random(seed)
        self._steps, self._seed = 0, seed
        self._sentences: SentenceTower | None = None
        if text_encoder is not None:
            with self._private_rng():
                encoder = load_sentence_encoder(text_encoder)
                self._sentences = SentenceTower(encoder, tower.code_dim)

    def observe(
        self,
        ids: Sequence[int | str],
        sketches: Tensor,
        window: int,
        texts: Sequence[TextRow] | None,
    ) -> None:
        """Take in rows [n, D] float32 of one window."""
        for i, sample_id in enumerate(ids):
            text = texts[i] if texts is not None else None
            self._rows.append(_Row(sample_id, window, sketches[i], text))
        self._unfitted.append(sketches)
        if sum(map(len, self._unfitted)) >= FIT_ROWS:
            self._fit()

    def observe_queries(self, sketches: Tensor) -> None:
        """Take in the queries [M, D] of the window that starts."""
        self._queries = sketches
        self._unfitted.append(sketches)

    def step(self) -> None:
        """One scheduled step of co-training."""
        if self._sentences is None or not self._rows or self._rows[-1].text is None:
            return
        window = self._rows[-1].window
        rows = [row for row in self._rows if row.window == window and row.text is not None]
        if len(rows) < 4:
            return
        if not bool(self.tower.basis.any()):
            self._fit()
        chosen = self._random.sample(rows, min(BLOCK_SAMPLES, len(rows)))
        sketches = torch.stack([row.sketch for row in chosen])
        anchors = self._anchors(rows)
        targets = functional.normalize(anchors, dim=1) @ functional.normalize(sketches, dim=1).T
        with self._private_rng():
            self.text_loss = self._sentences.step(
                [row.text for row in chosen if row.text is not None],
                functional.normalize(sketches @ self.tower.basis.T, dim=1),
                functional.normalize(anchors @ self.tower.basis.T, dim=1),
                targets,
            )
        self._steps += 1

    def publish(self, required: bool) -> bool:
        """Freeze a new version if one is ``required`` or clearly better; True if it was frozen."""
        self._fit()
        if not required:
            recent = torch.stack([row.sketch for row in list(self._rows)[-FIT_ROWS:]])
            gain = self.tower.retained(recent) - self.tower.retained(recent, -1)
            required = gain > RELEARN_GAIN
        if required:
            self.tower.freeze()
        return required

    def finish_text_tower(self) -> TextTower | None:
        """Solve the head onto the last version's codes; None where no text was seen."""
        latest = {row.sample_id: row for row in self._rows if row.text is not None}
        rows = list(latest.values())
        if not rows:
            return None
        texts = [row.text for row in rows if row.text is not None]
        blocks = [rows[start : start + FIT_ROWS] for start in range(0, len(rows), FIT_ROWS)]
        sketches = (torch.stack([row.sketch for row in block]) for block in blocks)
        codes = torch.cat([self.tower.project(block) for block in sketches]).numpy()
        dense, model = None, None
        if self._sentences is not None:
            dense, model = self._sentences.encode(texts), self._sentences.model
        return TextTower(TextHead.fit(texts, codes, dense, self._tokenizer), model)

    def save_text_tower(self, tower: TextTower, folder: Path) -> None:
        """Write ``text_head/`` and, with a sentence encoder, ``text/``."""
        hint = "Every sealed row is safe: make room and open the store, which merges them."
        with disk_errors(f"the text tower in {folder}", hint):
            with durable_tree(folder / "text_head") as part:
                tower.head.save(part)
            if self._sentences is not None:
                with durable_tree(folder / "text") as part:
                    self._sentences.save(part)

    def state(self) -> tuple[dict[str, object], dict[str, Tensor], dict[str, object] | None]:
        """JSON values, tensors, and the sentence encoder's weights: all that `restore` needs."""
        rows, width = list(self._rows), self.tower.sketch_dim
        values = {
            "ids": [row.sample_id for row in rows],
            "windows": [row.window for row in rows],
            "texts": [None if row.text is None else dict(row.text) for row in rows],
            "random": self._random.getstate(),
            "steps": self._steps,
            "text_loss": self.text_loss,
        }
        empty = torch.zeros(0, width, dtype=torch.float32)
        tensors = {
            "rows": torch.stack([row.sketch for row in rows]) if rows else empty,
            "unfitted": torch.cat([empty, *self._unfitted]),
            "anchors": empty if self._queries is None else self._queries.clone(),
            **self.tower.state(),
        }
        return values, tensors, None if self._sentences is None else self._sentences.state()

    def restore(
        self,
        values: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        weights: Mapping[str, Any] | None,
    ) -> None:
        """Go on from what `state` gave."""
        columns = (values["ids"], values["windows"], tensors["rows"], values["texts"])
        self._rows.extend(_Row(*entry) for entry in zip(*columns, strict=True))
        self._unfitted = [tensors["unfitted"]] if len(tensors["unfitted"]) else []
        self._queries = tensors["anchors"] if len(tensors["anchors"]) else None
        version, words, gauss = values["random"]
        self._random.setstate((version, tuple(words), gauss))
        self._steps, self.text_loss = values["steps"], values["text_loss"]
        self.tower.restore(tensors)
        if self._sentences is not None and weights is not None:
            self._sentences.restore(weights)

    def _anchors(self, rows: list[_Row]) -> Tensor:
        if self._queries is not None and len(self._queries):
            picked = self._random.sample(
                range(len(self._queries)), min(BLOCK_QUERIES, len(self._queries))
            )
            return self._queries[picked]
        picked_rows = self._random.sample(rows, min(BLOCK_QUERIES, len(rows)))
        return torch.stack([row.sketch for row in picked_rows])

    def _fit(self) -> None:
        if self._unfitted:
            block = torch.cat(self._unfitted)
            self._unfitted = []
            for start in range(0, len(block), FIT_ROWS):
                self.tower.fit(block[start : start + FIT_ROWS])

    @contextmanager
    def _private_rng(self) -> Iterator[None]:
        """Draw from a stream of our own; the user's random states are put back."""
        with streams_kept():
            torch.manual_seed(self._seed * 1_000_003 + self._steps)
            np.random.seed((self._seed + self._steps) % 2**32)  # noqa: NPY002 - isolates the global
            yield
