"""Every precision of Lightning, with queries and with the optimizer's updates."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import FineTuning, loader, oracle_gradient, relative_error, tiny_peft, tokens, trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from influcoder_lightning import InfluenceCallback, InfluenceStore, extract_features

# Largest relative error against float64 autograd: what the precision of the training leaves.
TOLERANCE = {
    "32-true": 1e-5,
    "64-true": 1e-6,  # rows are kept in float32
    "bf16-mixed": 2e-2,
    "bf16-true": 4e-2,
    "16-mixed": 3e-3,
    "16-true": 8e-3,
}


class Still(FineTuning):
    """Its weights stay where the oracle is."""

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=0.0, eps=1e-4)  # 1e-8 is 0 in half precision


def in_precision(name):
    if name != "16-mixed":
        return {"precision": name}
    # By its name Lightning gives a CPU bf16 instead.
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}


def oracle(model, row):
    return oracle_gradient(copy.deepcopy(model).double(), row)


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_rows_and_queries_are_those_of_float64(tmp_path, precision, updates):
    rows, queries = tokens(8, seed=61), tokens(4, seed=62)
    module = Still()
    exact = {
        name: [oracle(module.model, row) for row in some]
        for name, some in (("rows", rows), ("queries", queries))
    }
    callback = InfluenceCallback(
        str(tmp_path / "s"),
        query_dataloader=loader(queries, 2),
        projector="identity",
        keep_sketches=True,
        co_train=False,
        code_dim=8,
        optimizer_features=updates,
    )
    trainer(tmp_path, [callback], **in_precision(precision)).fit(module, loader(rows, 4))
    store = InfluenceStore(tmp_path / "s")
    assert len(store) == 8
    found = {"rows": store.sketches(), "queries": store.query_sketches(0)}
    for name, expected in exact.items():
        assert found[name].dtype == "float32"
        for value, reference in zip(found[name], expected, strict=True):
            assert relative_error(value, reference) <= TOLERANCE[precision], name
    if updates:  # before the first step Adam goes by the sign
        first = torch.tensor(store.sketches()[:4])
        expected = torch.linalg.vector_norm(first / (first.abs() + 1e-4), dim=1)
        assert relative_error(store.column("update_norm")[:4], expected) <= 1e-3


@pytest.mark.parametrize(
    ("projector", "co_train"), [("countsketch", True), ("factored", False), ("rademacher", False)]
)
def test_no_buffer_follows_the_default_precision(tmp_path, projector, co_train):
    """A default set by somebody else changes no number: neither a sketch nor a code."""
    rows, queries, stores = tokens(8, seed=63), tokens(4, seed=64), []
    for default in (torch.float32, torch.bfloat16, torch.float64):
        model = tiny_peft()
        torch.set_default_dtype(default)
        try:
            stores.append(
                extract_features(
                    model,
                    loader(rows, 4),
                    tmp_path / str(default),
                    query_dataloader=loader(queries, 2),
                    projector=projector,
                    sketch_dim=256,
                    code_dim=16,
                    co_train=co_train,
                    keep_sketches=True,
                )
            )
        finally:
            torch.set_default_dtype(torch.float32)
    for store in stores[1:]:
        for name in ("sketches", "codes", "query_sketches", "query_codes"):
            expected = getattr(stores[0], name)()
            assert getattr(store, name)().tobytes() == expected.tobytes(), name


def test_weights_that_are_no_numbers_any_more_cost_no_rows_of_before(tmp_path):
    """In half precision AdamW's eps of 1e-8 is 0: one step, and the weights are NaN."""

    class Diverging(FineTuning):
        def configure_optimizers(self):
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.0)

    callback = InfluenceCallback(
        str(tmp_path / "s"), query_dataloader=loader(tokens(4), 2), sketch_dim=64, code_dim=8
    )
    with pytest.warns(UserWarning, match="weights of the adapter are no finite numbers"):
        trainer(tmp_path, [callback], precision="16-true").fit(Diverging(), loader(tokens(8), 4))
    store = InfluenceStore(tmp_path / "s")
    assert store.sample_ids.tolist() == [0, 1, 2, 3]
    assert len(store.rank("cosine")) == 4
