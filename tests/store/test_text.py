"""Columns of text come back as they were, whole and in part."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning.store import schema
from influcoder_lightning.store.text import read_text

TEXTS = st.lists(st.text(st.characters(), max_size=8), max_size=8)  # surrogates and NUL, too


def column(name="ids"):
    file = h5py.File("text.h5", "w", driver="core", backing_store=False)
    return schema.create_text_column(file, name)


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, st.integers(-9, 9), st.integers(-9, 9))
def test_texts_come_back_as_a_list_would(first, second, start, stop):
    made = column()
    schema.append(made, first)
    schema.append(made, second)
    texts = first + second
    assert read_text(made).tolist() == texts
    assert read_text(made, slice(start, stop)).tolist() == texts[start:stop]
    places = np.arange(len(texts))[::2]
    assert read_text(made, places).tolist() == texts[::2]


@pytest.mark.parametrize("ends", [[2, 1], [-1, 2], [1, 99], [1, 1 << 62]])
def test_ends_that_do_not_fit_the_bytes_are_refused(ends):
    made = column()
    schema.append(made, ["a", "b"])
    made["end"][:] = ends
    with pytest.raises(ValueError, match="do not fit"):
        read_text(made)
