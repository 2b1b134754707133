"""Every precision of Lightning, with queries and with the optimizer's updates."""

from __future__ import annotations

import pytest
import torch
from capturing import captured
from conftest import FineTuning, loader, oracle_gradient, relative_error, tiny_peft, tokens
from lightning.pytorch.plugins.precision import MixedPrecision

from influcoder_lightning import extract_features

# Largest relative error against float64 autograd: what the precision of the training leaves.
TOLERANCE = {
    "32-true": 1e-5,
    "64-true": 1e-6,  # rows are kept in float32
    "bf16-mixed": 2e-2,
    "bf16-true": 4e-2,
    "16-mixed": 3e-3,
    "16-true": 8e-3,
}

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model():
    """A LoRA on every linear of the last layer, which is all that these promises depend on."""
    return tiny_peft(target_modules=LINEARS, layers_to_transform=[1])


class Still(FineTuning):
    """Its weights stay where the oracle is."""

    def __init__(self):
        super().__init__(model())

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=0.0, eps=1e-4)  # 1e-8 is 0 in half precision


def in_precision(name):
    if name != "16-mixed":
        return {"precision": name}
    # By its name Lightning gives a CPU bf16 instead.
    return {
        "plugins": [
            MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        ]
    }


@pytest.fixture(scope="module")
def exact():
    """Samples, queries, and the float64 gradients of both."""
    double, rows, queries = model().double(), tokens(4, seed=61), tokens(2, seed=62)
    return (
        rows,
        queries,
        [[oracle_gradient(double, row) for row in some] for some in (rows, queries)],
    )


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_rows_and_queries_are_those_of_float64(tmp_path, exact, precision, updates):
    rows, queries, expected = exact
    options = {"query_dataloader": loader(queries, 2), "optimizer_features": updates}
    store = captured(
        tmp_path, Still(), loader(rows, 2), options, max_steps=2, **in_precision(precision)
    )
    assert len(store) == 4
    for found, references in zip(
        (store.sketches(), store.query_sketches(0)), expected, strict=True
    ):
        assert found.dtype == "float32"
        for value, reference in zip(found, references, strict=True):
            assert relative_error(value, reference) <= TOLERANCE[precision]
    if updates:  # before the first step Adam goes by the sign
        first = torch.tensor(store.sketches()[:2])
        norms = torch.linalg.vector_norm(first / (first.abs() + 1e-4), dim=1)
        assert relative_error(store.column("update_norm")[:2], norms) <= 1e-3


@pytest.mark.parametrize(
    ("projector", "co_train"), [("countsketch", True), ("factored", False), ("rademacher", False)]
)
def test_no_buffer_follows_the_default_precision(tmp_path, projector, co_train):
    """A default set by somebody else changes no number: neither a sketch nor a code."""
    rows, queries, stores = tokens(4, seed=63), tokens(2, seed=64), []
    for default in (torch.float32, torch.bfloat16, torch.float64):
        adapted = model()
        torch.set_default_dtype(default)
        try:
            stores.append(
                extract_features(
                    adapted,
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

    class Diverging(Still):
        def configure_optimizers(self):
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.0)

    options = {"query_dataloader": loader(tokens(2), 2)}
    with pytest.warns(UserWarning, match="weights of the adapter are no finite numbers"):
        store = captured(
            tmp_path, Diverging(), loader(tokens(4), 2), options, max_steps=2, precision="16-true"
        )
    assert store.sample_ids.tolist() == [0, 1]
    assert len(store.rank("cosine")) == 2
