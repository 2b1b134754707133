"""Conversations in the list of samples: who says what, whole when opened, short in the table."""

from __future__ import annotations

import json

from influcoder_lightning import Ranking
from influcoder_lightning.report.findings.samples import samples_of
from influcoder_lightning.report.press.explorer import fit

ROWS = [
    {"prompt": "q", "response": "a"},
    {
        "prompt": "Be brief.\n\nq0\n\na0\n\nq1",
        "response": "a1 </script>",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "q0"},
            {"role": "assistant", "content": "a0", "weight": 0},
            {"role": "user", "content": "q1"},
            {"role": "assistant", "content": "a1 </script>"},
        ],
    },
]


def shown(budget):
    return json.loads(fit(samples_of(Ranking([0, 1], [2.0, 1.0]), ROWS, [0, 1]), budget).data)


def test_a_row_has_its_turns_behind_its_cells():
    data = shown(10**6)
    pair, chat = data["rows"]
    n = len(data["columns"])
    assert pair[n] == []
    assert chat[n] == [
        ["system", "Be brief."],
        ["user", "q0"],
        ["assistant (no loss)", "a0"],
        ["user", "q1"],
        ["assistant", "a1 </script>"],
    ]
    assert chat[data["columns"].index("prompt")] == "q1"


def test_rows_without_conversations_have_cells_alone():
    samples = samples_of(Ranking([0], [2.0]), ROWS[:1], [0])
    assert not samples.conversations
    data = json.loads(fit(samples, 10**6).data)
    assert len(data["rows"][0]) == len(data["columns"])


def test_no_turn_ends_the_script_it_stands_in():
    assert "</script" not in fit(samples_of(Ranking([0, 1], [2.0, 1.0]), ROWS, [0, 1]), 10**6).data
