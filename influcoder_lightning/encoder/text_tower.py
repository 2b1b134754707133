"""Text -> code: the sentence encoder (if any) and the closed-form head on top, as one object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.errors import DataError, StoreError
from influcoder_lightning.files import why_no_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class TextTower:
    """Maps texts into the code space of the last tower version.

    Args:
        head: the closed-form head.
        sentence_model: a ``SentenceTransformer`` whose output is one of the head's inputs, or None.
    """

    def __init__(self, head: TextHead, sentence_model: SentenceTransformer | None = None) -> None:
        self.head, self.sentence_model = head, sentence_model

    def encode(self, texts: Sequence[TextRow]) -> np.ndarray:
        """Codes [n, d] float32, L2-normalised, of rows with ``prompt`` and ``response``.

        Raises:
            DataError: a row lacks one of the two texts.
        """
        expected, _ = self.expect(texts)
        lengths = np.linalg.norm(expected, axis=1, keepdims=True)
        return np.asarray(expected / np.maximum(lengths, 1e-12), dtype=np.float32)

    def expect(self, texts: Sequence[TextRow]) -> tuple[np.ndarray, np.ndarray]:
        """Expected codes [n, d] float32, shorter where unsure, and the confidence [n] in [0, 1].

        Their products with query codes are expected cosines. The confidence is the expected cosine
        between a text's predicted and its true code.

        Raises:
            DataError: a row lacks one of the two texts.
        """
        for i, text in enumerate(texts):
            if not all(isinstance(text.get(f), str) for f in ("prompt", "response")):
                raise DataError(f"row {i} has no `prompt` and `response` text to encode.")
        dense = None
        if self.sentence_model is not None:
            from influcoder_lightning.encoder.sentence_tower import encode_texts

            dense = encode_texts(self.sentence_model, texts)
        expected = self.head.predict(texts, dense)
        return expected, self.head.confidence(expected)

    @classmethod
    def load(cls, folder: Path) -> TextTower:
        """Read ``text_head/`` and, where the head uses it, ``text/``.

        Raises:
            StoreError: a part is missing or damaged.
        """
        head = TextHead.load(folder / "text_head")
        if not head.dense_dim:
            return cls(head)
        try:
            from sentence_transformers import SentenceTransformer

            # A folder that is not there would be asked for at the hub.
            why = "" if (folder / "text").is_dir() else "no such folder"
            if why := why or why_no_model(folder / "text"):
                raise ValueError(why)
            model = SentenceTransformer(
                str(folder / "text"), device="cpu", trust_remote_code=False, local_files_only=True
            )
            if (width := model.get_embedding_dimension()) != head.dense_dim:
                raise ValueError(f"its width is {width}, and the head expects {head.dense_dim}")
            return cls(head, model)
        except ImportError as error:
            raise StoreError(
                "the text tower holds a sentence encoder: pip install 'influcoder-lightning[text]'"
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(
                f"cannot read the text tower in {folder / 'text'}: {reason:.300}. Train it again, "
                "or rank by a method that needs no text tower."
            ) from error
