"""One captured training step, and its rows against one-sample autograd."""

from __future__ import annotations

import pytest
from conftest import oracle_gradient, relative_error, trainer

from influcoder_lightning import InfluenceCallback, InfluenceStore


def captured(folder, module, batches, callback_options=None, callbacks=(), **trainer_options):
    """The store of a fit over ``batches`` that keeps exact, unprojected rows."""
    callback = InfluenceCallback(
        str(folder / "store"),
        projector="identity",
        keep_sketches=True,
        co_train=False,
        code_dim=8,
        **(callback_options or {}),
    )
    options = {"max_steps": 1} | trainer_options
    trainer(folder, [callback, *callbacks], **options).fit(module, batches)
    return InfluenceStore(folder / "store")


def assert_rows_equal_oracle(store, model, rows, tolerance=1e-5, oracle=oracle_gradient):
    """Every row equals ``oracle(model, row)`` within a relative error; returns the largest."""
    errors = []
    sketches, records = store.sketches(), store.records()
    assert len(sketches) > 0
    for sketch, record in zip(sketches, records.itertuples(), strict=True):
        expected = oracle(model, rows[record.sample_id])
        errors.append(relative_error(sketch, expected))
        assert errors[-1] <= tolerance
        assert record.grad_norm == pytest.approx(float(expected.norm()), rel=max(1e-5, tolerance))
    return max(errors)
