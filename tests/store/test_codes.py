"""int8 codes: as near as their step allows, and ranked as what they decode to."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from conftest import loader, tiny_peft, tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_store import unit_codes, write

from influcoder_lightning import InfluenceStore, extract_features
from influcoder_lightning.errors import CaptureError, ConfigError
from influcoder_lightning.store.codes import quantized
from influcoder_lightning.store.codes import unit_codes as decoded
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.writer import StoreWriter


@settings(deadline=None, max_examples=60)
@given(arrays(np.float16, (3, 5), elements=st.floats(-1, 1, width=16)))
def test_a_number_is_off_by_half_a_step_at_most(codes):
    stored = quantized(codes)
    step = np.abs(codes.astype(np.float64)).max(1, keepdims=True) / 127
    assert (np.abs(stored * step - codes) <= step / 2 + 1e-7).all()
    lengths = np.linalg.norm(decoded(stored).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, np.abs(codes).max(1) > 0, atol=2e-3)


def test_what_int8_cannot_say_is_refused():
    with pytest.raises(CaptureError, match="float16"):
        quantized(np.array([[1, np.nan]], np.float16))


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="code_dtype"):
        extract_features(tiny_peft(), loader(tokens(2)), tmp_path, code_dtype="int4")


@pytest.mark.parametrize("method", ["cosine", "fisher", "relatif", "tracin", "projected_cosine"])
def test_int8_rows_are_ranked_as_their_decoded_codes(tmp_path, method):
    for name in ("int8", "float16"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "influence.h5", list(range(30)), code_dtype=name)
    small = InfluenceStore(tmp_path / "int8")
    scores = small.rank(method).scores
    rounded = InfluenceStore(tmp_path / "float16")
    with StoreWriter.extended(rounded.path) as writer:  # the same codes, widened by hand
        codes = small.column("code").astype(np.float64)
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        writer.file["rows/features/gradient/code"][:] = codes.astype(np.float16)
    np.testing.assert_allclose(scores, rounded.rank(method).scores, atol=2e-3)
    assert small.codes().dtype == np.float16
    np.testing.assert_allclose(small.codes(), unit_codes(30, 1), atol=0.01)


def test_codes_that_are_int8_already_stay_as_they_are(tmp_path):
    write(tmp_path / "influence.h5", [1, 2, 3], code_dtype="int8")
    store = InfluenceStore(tmp_path)
    before = store.column("code")
    assert (quantized(store.codes()) == before).mean() > 0.9  # not for all: hence the next line
    with StoreWriter.extended(store.path) as writer:
        block = FeatureBlock(np.ones(3, "f4"), before, np.ones(3, "f4"), np.zeros((3, 16), "f4"))
        columns = dict.fromkeys(("window", "epoch", "step", "n_tokens", "tower_version"), 0)
        writer.append("rows", [4, 5, 6], columns | {"loss": 0, "learning_rate": 0}, block)
    assert (InfluenceStore(tmp_path).column("code") == np.concatenate([before, before])).all()


def test_rows_of_512_numbers_take_at_most_700_bytes(tmp_path):
    store = extract_features(
        tiny_peft(), loader(tokens(64)), tmp_path, sketch_dim=64, code_dim=512, code_dtype="int8"
    )
    with h5py.File(store.path) as file:
        sizes = []
        file["rows"].visititems(
            lambda _, node: sizes.append(node.nbytes) if isinstance(node, h5py.Dataset) else None
        )
    assert sum(sizes) / 64 <= 700
    assert store.attributes["config"]["code_dtype"] == "int8"
