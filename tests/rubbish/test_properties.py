"""Damage at random: whatever happens to a file, it is read or refused with a documented error."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import corpus_rankings
import corpus_scores
import corpus_towers
import numpy as np
import pytest
from corpus import limited
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from influcoder_lightning import Ranking, load_rows
from influcoder_lightning.data.sample_ids import batch_labels, batch_sample_ids
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.errors import ConfigError, DataError, RankingError, StoreError
from influcoder_lightning.influence.score_files import load_scores
from influcoder_lightning.run.config import defaults
from influcoder_lightning.run.config_values import check_kinds
from influcoder_lightning.run.saved_config import load_config

ROWS = b'{"prompt": "p", "response": "r", "id": "a"}\n{"prompt": "q", "response": "s"}\n' * 3
CONFIG = OmegaConf.to_yaml(defaults()).encode()
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def damage(draw: Any, data: bytes) -> bytes:
    """A few bits flipped, bytes put in, and something cut out or off."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
    start = draw(st.integers(0, len(changed)))
    end = draw(st.one_of(st.just(start), st.integers(start, len(changed))))
    changed[start:end] = draw(st.binary(max_size=8))
    return bytes(changed)


def _head(path: Path) -> Any:
    return TextHead.load(path.parent).predict(corpus_towers.TEXTS)


def _per_query(path: Path) -> Any:
    (path.parent / "ranking.csv").write_bytes(corpus_rankings.GOOD)
    return Ranking.load(path.parent / "ranking.csv", per_query=True)


KINDS: dict[str, tuple[Callable[[], bytes], Callable[[Path], Any], type[Exception]]] = {
    "rows.jsonl": (lambda: ROWS, load_rows, DataError),
    "ranking.csv": (lambda: corpus_rankings.GOOD * 2, Ranking.load, RankingError),
    "ranking.per_query.npz": (
        lambda: corpus_rankings._npz(**corpus_rankings.PARTS),
        _per_query,
        RankingError,
    ),
    "s.npy": (lambda: corpus_scores.npy(np.arange(4.0)), load_scores, RankingError),
    "s.pt": (corpus_scores.pt, load_scores, RankingError),
    "s.json": (lambda: b'{"a": [1, 2.5], "b": null, "c": -1e3}', load_scores, RankingError),
    "config.yaml": (lambda: CONFIG, lambda path: load_config(path.parent), ConfigError),
    "config.json": (
        lambda: corpus_towers.settings()(Path()),
        _head,
        StoreError,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_or_refused(name, tmp_path):
    intact, use, error = KINDS[name]
    path = tmp_path / name
    if name == "config.json":
        (tmp_path / "head.safetensors").write_bytes(corpus_towers.arrays()(tmp_path))

    @settings(
        deadline=None,
        max_examples=40,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damage(intact()))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        with limited(), suppress(error):
            use(path)

    check()


@settings(deadline=None, max_examples=40, database=None)
@given(st.lists(st.integers(0, 2**63), max_size=3), st.sampled_from(["<f8", "<f4", "|O", "|S9"]))
def test_no_header_of_an_array_takes_memory(tmp_path_factory, shape, descr):
    path = tmp_path_factory.mktemp("npy") / "s.npy"
    text = repr({"descr": descr, "fortran_order": False, "shape": tuple(shape)})
    path.write_bytes(corpus_scores.npy_header(text) + bytes(64))
    with limited(), suppress(RankingError):
        assert len(load_scores(path)) <= 16


@settings(deadline=None, max_examples=60, database=None)
@given(VALUES)
def test_any_value_as_a_row_is_read_or_refused(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    buffer = io.StringIO()
    json.dump({"prompt": "p", "response": "r", "id": value}, buffer)
    path.write_text(buffer.getvalue(), encoding="utf-8")
    with suppress(DataError):
        assert load_rows(path)[0].get("id") == value


@settings(deadline=None, max_examples=80, database=None)
@given(VALUES)
def test_any_value_as_ids_or_labels_is_taken_or_refused(value):
    with suppress(DataError):
        assert all(isinstance(name, int | str) for name in batch_sample_ids({"sample_id": value}))
    with pytest.raises(DataError):
        batch_labels({"labels": value})


KEYS = [
    "data.pool",
    "model.name",
    "train.lr",
    "train.steps",
    "train",
    "lora.r",
    "lora.target_modules",
    "seed",
    "seeds",
    "influence.co_train",
    "influence",
    "select.k",
    "select.threshold",
    "from",
]


@settings(deadline=None, max_examples=80, database=None)
@given(st.sampled_from(KEYS), VALUES)
def test_any_value_of_a_setting_is_taken_or_refused(key, value):
    cfg = defaults().copy()
    try:
        OmegaConf.update(cfg, key, value, merge=False)
    except OmegaConfBaseException:  # it cannot hold such a value, and Hydra hands over none
        return
    with suppress(ConfigError):
        check_kinds(cfg)
