"""The HDF5 store: one place that knows the file layout (`schema`), a writer and a reader."""

from typing import Any

__all__ = ["InfluenceStore"]


def __getattr__(name: str) -> Any:
    if name == "InfluenceStore":
        from influcoder_lightning.store.reader import InfluenceStore

        return InfluenceStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
