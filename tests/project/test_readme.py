"""The README's example runs as it stands."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import FineTuning, loader, tokens, trainer

import influcoder_lightning

README = Path(__file__).parents[2] / "README.md"


class Words:
    def batch_decode(self, ids, skip_special_tokens=True):
        return [" ".join(f"w{i}" for i in row) for row in ids]


def test_the_example_on_an_existing_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    code = re.search(r"<!-- test: readme example -->\n```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    names = {
        "dataset": tokens(120, seed=1),
        "my_collate": torch.utils.data.default_collate,
        "query_loader": loader(tokens(4, seed=2)),
        "tokenizer": Words(),
        "module": FineTuning(),
        "new_rows": [{"prompt": "w1 w2", "response": "w3"}, {"prompt": "w4", "response": "w5"}],
    }
    exec(compile(code.group(1), "README.md", "exec"), names)
    assert len(names["best"]) == 100
    assert len(names["odd"]) == 20
    assert len(names["fresh"].scores) == 2


def test_the_examples_in_docstrings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = FineTuning()
    names = {
        "Trainer": lambda callbacks: trainer(tmp_path, callbacks),
        "module": module,
        "model": module.model,
        "loader": loader(tokens(120, seed=1), 8),
        "queries": loader(tokens(4, seed=2)),
    }
    names |= {name: getattr(influcoder_lightning, name) for name in influcoder_lightning.__all__}
    for public in ("InfluenceCallback", "InfluenceStore", "extract_features"):
        text = inspect.getdoc(names[public])
        code = textwrap.dedent(text.split("Example::")[1])
        exec(compile(code, public, "exec"), names)
    assert len(names["store"]) == 120


@pytest.mark.parametrize(
    "name", ["docs/architecture.md", "docs/reference/configuration.md", "CHANGELOG.md"]
)
def test_links_lead_somewhere(name):
    assert name in README.read_text(encoding="utf-8")
    assert (README.parent / name).is_file()
