"""report.html as text: nothing of a user's text gets out of its place, and nothing is dropped."""

import doctest
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.figure
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from influcoder_lightning.errors import DataError
from influcoder_lightning.report import explorer
from influcoder_lightning.report.press.blocks import (
    Chart,
    Code,
    Figure,
    Files,
    Folded,
    Number,
    Numbers,
    Samples,
    Section,
    Table,
    Text,
)
from influcoder_lightning.report.press.explorer import fit, script_json
from influcoder_lightning.report.press.glossary import definition
from influcoder_lightning.report.press.html import MOST_BYTES, page, write_page
from influcoder_lightning.report.press.markdown import one_line

HERE = Path()
VOID = {"meta", "img", "input", "br"}
HOSTILE = [
    "</script><script>window.hit=1</script>",
    "<!--<script>",
    "]]><svg onload=hit()>",
    '"><img src=x onerror=hit()>',
    "'; alert(1); //",
    "{{ 7*7 }}{% raw %}",
    "\u2028\u2029\x00\x1b[31m",
    "\u202egnp.exe\u2066",
    "lone \ud800 surrogate \udfff",
    "&lt;b&gt; &amp;",
    "javascript:alert(1)",
    "\ufffe\uffff\U0010ffff",
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), min_size=1, max_size=30))


class Page(HTMLParser):
    """Tags with their attributes, the text outside of scripts, and the content of each script."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.scripts, self.text = [], [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        else:
            self.text += data

    @property
    def samples(self):
        return [json.loads(text) for attrs, text in self.scripts if "json" in attrs.get("type", "")]

    def shape(self):
        """The tags without what differs from text to text."""
        return [(tag, sorted(attributes)) for tag, attributes in self.tags]


def drawing(n=2):
    figure = matplotlib.figure.Figure(figsize=(4, 3))
    figure.subplots().plot(range(n), range(n), "o")
    return figure


def everything(text):
    rows = [[1, 0.5, text, text, text, text], [2, None, text, None, text, text]]
    return [
        Section(
            text,
            [
                Text(text, lead=True, terms=["score"]),
                Numbers([Number(text, text, text), Number("score", "1")]),
            ],
        ),
        Section(
            text,
            [
                Table([text, "rank"], [[text, 1], [text, 2]]),
                Code(text),
                Files([("ranking.csv", text)]),
                Folded(text, [Code(text)]),
                Samples(
                    ["rank", "score", "sample", "task", "prompt", "response"], rows, {"a": [0]}
                ),
            ],
        ),
    ]


PLAIN = Page(page(HERE, everything("word")))


@given(texts)
@settings(max_examples=60, deadline=None)
@example(HOSTILE[0])
@example(HOSTILE[7])
@example(HOSTILE[8])
def test_no_text_breaks_out(text):
    # A known word becomes a link, also behind what is not shown.
    assume(definition(one_line(text).partition(",")[0]) is None)
    html = page(HERE, everything(text))
    html.encode("utf-8")
    found = Page(html)
    assert found.open == []
    assert found.shape() == PLAIN.shape()
    (samples,) = found.samples
    assert samples["rows"][0] == [1, 0.5, text, text, text, text]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)


@given(st.recursive(texts | st.none() | st.integers(-(2**53), 2**53), lambda c: st.lists(c)))
def test_json_in_a_script_reads_back_as_the_same(content):
    text = script_json(content)
    assert json.loads(text) == content
    assert not set(text) & set("<>&\u2028\u2029\u202e\ud800")
    text.encode("utf-8")


def test_only_own_scripts_may_run_and_nothing_is_fetched(tmp_path):
    html = page(tmp_path, everything("word"))
    found = Page(html)
    (policy,) = (a["content"] for t, a in found.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    script_source = re.search("script-src ([^;]*)", policy)[1]
    assert len(re.findall("'sha256-[^']+'", script_source)) == 2
    assert "unsafe" not in script_source
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert re.match(r"#|data:image/png;base64,|[\w.%-]+$", attributes.get(name, "#"))


def test_terms_lead_to_their_definition(tmp_path):
    sections = [
        Section(
            "Title",
            [
                Text("A score is a score.", terms=["score", "no term"]),
                Numbers([Number("held-out loss, top_k", "2.0")]),
                Table(["Rank", "other"], [["top_k", "top_k"]]),
            ],
        )
    ]
    found = Page(page(tmp_path, sections))
    linked = [a for t, a in found.tags if "term" in a.get("class", "").split()]
    ids = {a["id"] for t, a in found.tags if "id" in a}
    assert [a["href"][1:] for a in linked] == [a["aria-describedby"] for a in linked]
    assert [a["href"] for a in linked] == [
        "#def-score", "#def-held-2dout-20loss", "#def-rank", "#def-top_k",
    ]  # fmt: skip
    assert {a["aria-describedby"] for a in linked} <= ids


def samples(n, length):
    rows = [[i + 1, -i / 7, f"id{i}", "p" * length, "r" * length] for i in range(n)]
    marks = {"best": [0, 1], "worst": [n - 1, n - 2], "most ambiguous": [n // 2]}
    return Samples(["rank", "score", "sample", "prompt", "response"], rows, marks, total=2 * n)


@pytest.mark.parametrize(
    ("n", "length", "shown", "cut"),
    [
        (50, 100, 50, None),
        (50, 4_000, 50, 2_000),
        (50, 30_000, 50, 2_000),
        (5_000, 2_000, None, 500),
    ],
)
def test_what_does_not_fit_is_cut_and_the_page_says_so(n, length, shown, cut):
    given_rows = samples(n, length)
    found = fit(given_rows, 250_000)
    data = json.loads(found.data)
    assert len(found.data.encode()) <= 250_000 + 200
    assert found.n == len(data["rows"])
    assert found.cut == cut
    assert shown in (None, found.n)
    assert data["n"] == 2 * n
    ranks = [row[0] for row in data["rows"]]
    assert ranks == sorted(ranks)
    for name, places in given_rows.marks.items():
        assert [ranks[at] for at in data["marks"][name]] == [place + 1 for place in places]
    if shown is None:  # as many of the best as of the worst
        middle = sum(rank <= n / 2 for rank in ranks)
        assert abs(2 * middle - len(ranks)) <= 2
    longest = max(len(row[3]) for row in data["rows"])
    assert longest == (length if cut is None else cut)


def test_the_page_stays_below_its_limit_whatever_is_given(tmp_path):
    huge = "<é\u202e" * 200_000
    sections = [
        Section(huge[:1000], [Text(huge), Chart(drawing(n=8_000), "many", "many.png")]),
        Section(
            "Big",
            [
                Table(["a"], [[huge]] * 2_000),
                Code(huge),
                Folded("more", [Code(huge)]),
                samples(40_000, 200),
                samples(200, 300_000),
            ],
        ),
    ]
    html = page(tmp_path, sections)
    assert len(html.encode("utf-8")) < MOST_BYTES < 5_000_000
    found = Page(html)
    assert "The first 300 of 2,000 rows." in found.text
    assert "of 80,000 samples" in found.text
    assert "of all are in ranking.csv" in found.text
    assert "Texts are cut at 2,000 characters." in found.text
    assert all(len(part["rows"]) > 100 for part in found.samples)
    (image,) = (a for t, a in found.tags if t == "img")  # too many points to draw
    assert image["src"].startswith("data:image/png")


def test_images_are_carried_along_or_linked(tmp_path):
    (tmp_path / "small.png").write_bytes(b"png")
    (tmp_path / "large.png").write_bytes(b"0" * 1_000_001)
    blocks = [Figure("small.png", "small"), Figure("large.png", "large")]
    found = Page(page(tmp_path, [Section("T", blocks)]))
    assert [a["src"] for t, a in found.tags if t == "img"] == ["data:image/png;base64,cG5n"]
    assert [a["href"] for t, a in found.tags if t == "a"] == ["large.png"]


def test_both_pages_are_written_as_a_whole(tmp_path):
    sections = [*everything("word"), Section("A chart", [Chart(drawing(), "c", "chart.png")])]
    write_page(tmp_path / "run", sections)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"report.md", "report.html", "chart.png"}
    first = (tmp_path / "run" / "report.html").read_bytes()
    write_page(tmp_path / "run", sections)
    assert (tmp_path / "run" / "report.html").read_bytes() == first
    with pytest.raises(DataError, match="at least one section"):
        write_page(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_samples_that_do_not_fit_their_columns():
    with pytest.raises(DataError, match="1 cells for 2 columns"):
        Samples(["a", "b"], [[1]])
    with pytest.raises(DataError, match="worst: a place that is not in the 1 rows"):
        Samples(["a"], [[1]], {"worst": [1]})


def test_docstring_example():
    result = doctest.testmod(explorer)
    assert result.attempted
    assert not result.failed
