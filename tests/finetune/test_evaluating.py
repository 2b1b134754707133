"""The held-out loss of a model: over the tokens of a data set, however it is cut into batches."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import Samples, tiny_peft, tokens

from influcoder_lightning.errors import DataError
from influcoder_lightning.finetune.training import evaluate

ROWS = [{**row, "sample_id": i, "prompt": "", "response": ""} for i, row in enumerate(tokens(7))]


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_every_response_token_counts_the_same(batch_size):
    model = tiny_peft().eval()
    losses = []
    for row in ROWS:
        with torch.no_grad():
            logits = model(input_ids=row["input_ids"][None]).logits[0]
        for place, label in enumerate(row["labels"].tolist()[1:]):
            if label != -100:
                losses.append(-float(logits[place].log_softmax(0)[label]))
    found = evaluate(model, Samples(ROWS), batch_size)
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_model_that_diverged_has_no_loss():
    model = tiny_peft()
    with torch.no_grad():
        next(model.parameters())[ROWS[3]["input_ids"][0]] = math.nan
    assert math.isnan(evaluate(model, Samples(ROWS), batch_size=2))


def test_nothing_to_measure_on_is_refused():
    with pytest.raises(DataError, match="no response token"):
        evaluate(tiny_peft(), Samples([]))
