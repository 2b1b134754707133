"""The sections of a valuation: which there are, and what they say of what cannot be shown."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FineTuning, Samples, loader, tiny_peft, tokens, trainer
from torch.utils.data import DataLoader

from influcoder_lightning import (
    InfluenceCallback,
    InfluenceStore,
    Ranking,
    collate_with_sample_ids,
    extract_features,
    with_sample_ids,
)
from influcoder_lightning.recipes.pages.valuation import valuation_sections
from influcoder_lightning.report.press.blocks import Chart, Folded, Numbers, Table, Text
from influcoder_lightning.report.press.glossary import definition
from influcoder_lightning.report.press.html import write_page
from influcoder_lightning.run.split import Split

POOL = tokens(24, seed=61)
POOL[7] = {name: value.clone() for name, value in POOL[3].items()}  # a copy
ROWS = [
    {"prompt": f"<i>what is {i}", "response": f"it is {i % 3}", "task": f"t{i % 2}"}
    for i in range(24)
]
HEADINGS = [
    "How the scores are spread",
    "Near-copies among the best",
    "Where the queries disagree",
    "Do other methods say the same?",
    "Does the ranking follow length?",
    "Did the model move too fast?",
    "What it cost",
]


def materials(k=None):
    cfg = SimpleNamespace(select=SimpleNamespace(k=k))
    return SimpleNamespace(
        cfg=cfg, pool=Split(ROWS, list(range(24)), Samples(POOL), range(24), [1] * 24, None)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    callback = InfluenceCallback(
        str(folder / "influence"),
        query_dataloader=loader(tokens(4, seed=62), 2),
        sketch_dim=64,
        code_dim=8,
        refresh_queries_every_n_steps=2,
    )
    torch.manual_seed(0)
    pool = DataLoader(
        with_sample_ids(Samples(POOL), list(range(24))),
        batch_size=4,
        collate_fn=collate_with_sample_ids(),
    )
    trainer(folder, [callback], max_epochs=1).fit(FineTuning(tiny_peft()), pool)
    return InfluenceStore(folder)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    samples = DataLoader(
        with_sample_ids(Samples(POOL), list(range(24))),
        batch_size=4,
        collate_fn=collate_with_sample_ids(),
    )
    options = {"sketch_dim": 64, "code_dim": 8, "co_train": False, "show_progress": False}
    return extract_features(tiny_peft(), samples, folder, **options)


def blocks(section, kind):
    return [block for block in section.blocks if isinstance(block, kind)]


def test_a_training_run_has_every_section(trained, tmp_path):
    ranking = trained.rank("cosine")
    sections = valuation_sections(materials(k=6), trained, ranking, tmp_path)
    assert [section.title for section in sections] == HEADINGS
    assert all(isinstance(section.blocks[0], Text | Numbers) for section in sections)
    assert "top 6 start" in sections[0].blocks[0].text
    write_page(tmp_path, sections)
    page = (tmp_path / "report.html").read_text()
    assert "<i>what" not in page
    for section in sections:
        for chart in blocks(section, Chart):
            assert (tmp_path / chart.path).is_file()


def words(section_blocks):
    """Every column, label and term that a reader may want explained."""
    for block in section_blocks:
        if isinstance(block, Folded):
            yield from words(block.blocks)
        elif isinstance(block, Table):
            yield from block.columns
        elif isinstance(block, Numbers):
            yield from (item.label for item in block.items)
        elif isinstance(block, Text | Chart):
            yield from block.terms


def test_every_word_is_explained(trained, frozen, tmp_path):
    plain = {"sample", "task", "prompt", "response", "method", "why", "to"}
    for store, method in ((trained, "cosine"), (frozen, "self")):
        for section in valuation_sections(materials(), store, store.rank(method), tmp_path):
            unknown = {word for word in words(section.blocks) if not definition(word)} - plain
            assert not unknown, section.title


def test_without_queries_or_training_the_sections_that_need_them_are_missing(frozen, tmp_path):
    sections = valuation_sections(materials(), frozen, frozen.rank("self"), tmp_path)
    titles = [section.title for section in sections]
    assert "Did the model move too fast?" not in titles
    assert "Where the methods disagree" in titles
    copies = sections[titles.index("Near-copies among the best")]
    assert "of the top 10" in copies.blocks[0].text
    numbers = blocks(sections[-1], Numbers)[0].items
    share = next(item for item in numbers if item.label == "step time share")
    assert share.note == "a frozen model: all of it"
    reasons = sections[titles.index("Do other methods say the same?")].blocks[-1]
    assert "the store has none" in str(reasons)


def test_a_copy_on_a_frozen_model_is_found(frozen, tmp_path):
    ranking = Ranking(list(range(24)), np.arange(24, 0, -1.0), method="mine")
    section = valuation_sections(materials(k=10), frozen, ranking, tmp_path)[1]
    [table] = blocks(section, Table)
    assert table.columns == ["copies", "rank", "score", "sample", "prompt", "response"]
    assert {"3", "7"} <= {row[3] for row in table.rows}
    for row in table.rows:
        assert row[1] == int(row[3]) + 1
        assert row[4] == ROWS[int(row[3])]["prompt"]
    assert "distinct samples remain" in section.blocks[0].text


def test_a_ranking_without_scores_is_said_to_be_one(frozen, tmp_path):
    nothing = Ranking(list(range(24)), np.full(24, np.nan), method="mine")
    sections = valuation_sections(materials(), frozen, nothing, tmp_path)
    assert [section.title for section in sections] == [HEADINGS[0], HEADINGS[-1]]
    assert sections[0].blocks == [Text("No sample has a finite score.")]
