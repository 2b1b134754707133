import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from influcoder_lightning import Ranking
from influcoder_lightning.errors import DataError, RankingError
from influcoder_lightning.report.findings.comparison import summarise_arms
from influcoder_lightning.report.findings.tables import arms_table, sample_table
from influcoder_lightning.report.press.blocks import Code, Figure, Files, Section, Table, Text
from influcoder_lightning.report.press.markdown import render, write_report

HERE = Path()
# A parser of its own as the judge: tables and HTML on, as where people read reports.
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
nasty = st.one_of(
    st.text(max_size=30),
    st.text("|`*_\\<>&[]()#!~-+=.1 \n\r\t$:/wa", max_size=20),
)


class Page(HTMLParser):
    """Rows of cells as text, and every tag that was opened."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def one_line(text):
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    return re.sub(" +", " ", kept).strip()


@given(st.lists(st.tuples(nasty, nasty), min_size=1, max_size=3))
@example([("a | b", "c\\| d")])
@example([("<script>alert(1)</script>", "![x](http://evil) www.evil.com")])
@example([("`code` ``", "\\")])
@example([("&amp; &#124;", "1. list")])
def test_a_table_shows_every_text_as_it_is_and_nothing_else(cells):
    page = Page(PARSER.render(render(Table(["one", "two"], cells, limit=1000), HERE)))
    assert [[c.strip() for c in row] for row in page.rows[1:]] == [
        [one_line(c) for c in row] for row in cells
    ]
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}


@given(nasty)
@example("- item")
@example("12. item")
@example("===")
@example("a <b")
@example("#heading")
@example("> quote")
@example("~~~")
def test_a_paragraph_of_users_text_stays_a_paragraph(text):
    page = Page(PARSER.render(render(Text(text), HERE)))
    assert page.text.strip() == one_line(text)
    assert set(page.tags) <= {"p"}


def test_addresses_do_not_become_links():
    text = render(Text("see http://a.example and www.b.example, a@b.example"), HERE)
    assert "://" not in text
    assert "www." not in text
    assert "@" not in text


def test_long_text_is_cut_before_it_is_escaped():
    assert render(Table(["x"], [["|" * 30]], limit=5), HERE).endswith(
        "| &#124;&#124;&#124;&#124;… |"
    )


def test_numbers_are_right_aligned_and_missing_ones_a_dash():
    text = render(Table(["name", "value"], [["a", 0.123456], ["b", None]]), HERE)
    assert text.splitlines()[1:] == ["| --- | --: |", "| a | 0.1235 |", "| b | - |"]
    with pytest.raises(DataError, match="1 cells for 2 columns"):
        Table(["a", "b"], [["x"]])


def test_code_with_fences_stays_inside():
    text = 'influcoder recipe=valuate\n```\n<b> "x"'
    page = Page(PARSER.render(render(Code(text), HERE)))
    assert page.tags == ["pre", "code"]
    assert page.text.strip() == text


def test_a_page_with_everything(tmp_path):
    path = tmp_path / "run" / "report.md"
    sections = [
        Section("What helped <most>?", [Text("lead", lead=True), Text("**plain**")]),
        Section(
            "Figures",
            [
                Figure(tmp_path / "run" / "my figure (1).png", "score | rank"),
                Files([("ranking.csv", "all scores")]),
            ],
        ),
    ]
    write_report(path, sections)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(
        "# What helped &lt;most&gt;?\n\n**lead**\n\n\\*\\*plain\\*\\*\n\n## Figures"
    )
    assert "](my%20figure%20%281%29.png)" in text
    assert "- [ranking.csv](ranking.csv): all scores" in text
    assert [p.name for p in path.parent.iterdir()] == ["report.md"]
    page = Page(PARSER.render(text))
    assert page.tags.count("img") == 1
    assert page.tags.count("strong") == 1
    with pytest.raises(DataError, match="at least one section"):
        write_report(path, [])


def test_sample_table_shows_rank_score_and_text():
    ranking = Ranking([1, 2, 3], [0.5, 0.25, 0.75])
    rows = [{"prompt": f"p{i}", "response": "r", "task": "t"} for i in (1, 2, 3)]
    table = sample_table(ranking, rows, ["1", "2", "3"], ranking.top_k(2))
    assert table.columns == ["rank", "score", "sample", "task", "prompt", "response"]
    assert table.rows == [[1, 0.75, "3", "t", "p3", "r"], [2, 0.5, "1", "t", "p1", "r"]]
    bare = sample_table(ranking, [{"prompt": "p", "response": "r"}], [2], [2])
    assert bare.columns == ["rank", "score", "sample", "prompt", "response"]
    with pytest.raises(RankingError, match=r"1 samples to show.*'9'"):
        sample_table(ranking, rows, [1, 2, 3], [9])
    with pytest.raises(RankingError, match="3 rows and 2 row ids"):
        sample_table(ranking, rows, [1, 2], [1])


def test_arms_table_measures_against_random():
    losses = {"random_k": [2.0, 2.2], "base": [4.0], "top_k": [1.9, 1.9]}
    table = arms_table(summarise_arms(losses, k=5, steps=10, seeds=2))
    assert [row[0] for row in table.rows] == ["top_k", "random_k", "base"]
    assert table.rows[0][4] == pytest.approx(-0.2)
    assert table.rows[2][2:4] == [None, None]
