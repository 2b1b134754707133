"""verify: is what a run has written still what was written; are rows of a model exact?"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from influcoder_lightning.data.rows import load_rows
from influcoder_lightning.data.written_rows import FORMS
from influcoder_lightning.encoder.gradient_tower import TOWERS, load_version
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.errors import ConfigError, StoreError
from influcoder_lightning.files import durable_path
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.recipes.exactness import prove
from influcoder_lightning.run.recipe import Output, Recipe
from influcoder_lightning.run.run_folder import RANKING, STORE, source_folder
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.store import schema
from influcoder_lightning.store.folder import SEGMENTS
from influcoder_lightning.store.integrity import (
    read_adapters,
    read_segments,
    read_store,
)

log = logging.getLogger(__name__)
_COMPARED = ", compared with their checksums (those of release 0.1 have none)"


OUTPUTS = (Output("verify.json", "what was checked, and how"),)


def run(cfg: Settings, folder: Path) -> None:
    """Read all of the run in ``from`` and write ``verify.json``: what was checked, and how.

    With ``model.name`` and ``data.pool`` in its place: see `exactness.prove`.

    Raises:
        ConfigError: no run is given, or it has nothing to check.
        CaptureError: rows of the model are not what they should be.
        StoreError, RankingError, DataError: something is damaged; names it.
    """
    if cfg["from"] is None and cfg.model.name is not None:
        prove(cfg, folder)
        return
    source = source_folder(cfg, "verify")
    checked = dict(_checks(source))
    if not checked:
        raise ConfigError(
            f"from={source}: there is no store, no {RANKING} and no chosen rows to check. Give "
            "the folder of a run that has valued, ranked or chosen samples."
        )
    for name, words in checked.items():
        log.info("%s: %s", name, words)
    with durable_path(folder / "verify.json") as part:
        part.write_text(json.dumps({"run": str(source), "checked": checked}, indent=1) + "\n")
    save_config(cfg, folder)


def _checks(source: Path) -> Iterator[tuple[str, str]]:
    """What is there -> how it was checked, one at a time."""
    store = source / STORE
    checks: dict[Path, Callable[[Path], str]] = {
        store / schema.FILE_NAME: _store,
        store / SEGMENTS: lambda path: _segments(path.parent),
        store / "encoder": lambda path: _towers(path.parent),
        store / "adapters": lambda path: f"{read_adapters(path.parent)} adapters{_COMPARED}",
        source / RANKING: lambda path: f"{len(Ranking.load(path).sample_ids):,} scores, read",
        **dict.fromkeys((source / name for name in FORMS.values()), _rows),
    }
    for path, check in checks.items():
        if path.exists():
            yield str(path.relative_to(source)), check(path)


def _rows(path: Path) -> str:
    return f"{len(load_rows(path)):,} rows, read"


def _store(path: Path) -> str:
    n_sets, n_bytes = read_store(path)
    return f"{n_sets} data sets of {n_bytes:,} bytes, read and compared with their checksums"


def _segments(folder: Path) -> str:
    n_segments, n_rows = read_segments(folder)
    return f"{n_segments} segments of {n_rows:,} rows, compared with their checksums"


def _towers(folder: Path) -> str:
    return f"{read_towers(folder)} towers{_COMPARED}"


def read_towers(folder: Path) -> int:
    """Load the towers of a store; returns how many files and heads there were.

    Raises:
        StoreError: one is damaged.
    """
    versions = sorted((folder / TOWERS).glob("version_*.safetensors"))
    for version in range(len(versions)):
        basis = load_version(folder / TOWERS, version).versions[-1]
        if not np.isfinite(basis.numpy()).all():
            raise StoreError(
                f"{versions[version]} is damaged: it holds numbers that are not finite."
            )
    head = folder / "encoder" / "text_head"
    if head.is_dir():
        TextHead.load(head)
    return len(versions) + head.is_dir()


RECIPE = Recipe(run, OUTPUTS)
