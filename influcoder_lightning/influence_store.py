"""A finished store: what is in its file, and all that can be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influcoder_lightning.errors import StoreError
from influcoder_lightning.store import schema
from influcoder_lightning.store.folder import run_file
from influcoder_lightning.store.store_file import StoreFile

if TYPE_CHECKING:
    from influcoder_lightning.encoder.gradient_tower import GradientTower
    from influcoder_lightning.encoder.text_tower import TextTower
    from influcoder_lightning.influence.ranking import Ranking


class InfluenceStore(StoreFile):
    """A finished valuation: rows, queries, windows, towers.

    Args:
        path: the store folder, the run folder around it, or ``influence.h5`` itself. The segments
            of a run that was killed are merged first.

    Raises:
        StoreError: nothing there, no HDF5 file, truncated, or of another schema.

    Example::

        store = InfluenceStore("run/influence")
        store.rank("cosine").top_k(100)
    """

    def __init__(self, path: str | Path) -> None:
        file = schema.store_file(path)
        if not file.is_file() and file.name == schema.FILE_NAME and run_file(file.parent).is_file():
            from influcoder_lightning.valuation.finish import recover

            recover(file.parent)
        super().__init__(file)

    def gradient_tower(self, version: int) -> GradientTower:
        """The tower whose last version is ``version``.

        Raises:
            StoreError: co-training made no such version, or its file is damaged.
        """
        from influcoder_lightning.encoder.gradient_tower import TOWERS, load_version

        return load_version(self.folder / TOWERS, version)

    def text_tower(self) -> TextTower:
        """The co-trained text tower.

        Raises:
            StoreError: the run trained none.
        """
        from influcoder_lightning.encoder.text_tower import TextTower

        folder = self.folder / "encoder"
        if not (folder / "text_head").is_dir():
            raise StoreError(
                f"{self.folder} has no text tower. It is co-trained when `co_train=True` and the "
                "callback can see text: pass `tokenizer=`, or batches with `prompt` and `response`."
            )
        return TextTower.load(folder)

    def rank(
        self,
        method: str = "cosine",
        queries: Sequence[Any] | None = None,
        data: Sequence[dict[str, Any]] | None = None,
        model: Any = None,
        **options: Any,
    ) -> Ranking:
        """Rank the samples; see `influcoder_lightning.influence.rank`."""
        from influcoder_lightning.influence.registry import rank

        return rank(self, method, queries, data, model, **options)

    def add_queries(self, model: Any, dataloader: Any, **options: Any) -> list[int | str]:
        """Value new queries in every window without retraining; see `valuation.new_queries`."""
        from influcoder_lightning.valuation.new_queries import add_queries

        ids = add_queries(self, model, dataloader, **options)
        for name in ("query_ids", "_queries"):
            self.__dict__.pop(name, None)
        return ids
