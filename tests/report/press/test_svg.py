"""Charts inside a page: colours and ids are the page's, text is text, and nothing breaks out."""

from xml.etree import ElementTree

import matplotlib.figure
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influcoder_lightning.report.press.style import ACCENT, INK, hover
from influcoder_lightning.report.press.svg import chart_svg

SVG = "{http://www.w3.org/2000/svg}"


def figure(title="A title", points=4, said="said"):
    made = matplotlib.figure.Figure(figsize=(4, 3), layout="constrained")
    axes = made.subplots()
    (line,) = axes.plot(range(points), range(points), "o-", color=ACCENT, label="line")
    hover(line, said)
    axes.set_title(title, color=INK, parse_math=False)
    axes.set_xlim(0.5, points)  # clips
    axes.legend()
    return made


def test_colours_and_font_are_the_pages():
    text = chart_svg(figure(), "chart-0", "What it shows")
    assert "var(--accent)" in text
    assert "var(--ink)" in text
    assert "font-family" not in text
    for fixed in (ACCENT, INK, "#ffffff", "#000000"):
        assert fixed not in text.lower()


def test_text_stays_text_and_is_labelled():
    root = ElementTree.fromstring(chart_svg(figure(said="3 < 4"), "chart-0", 'a "b" <c>'))
    assert "A title" in [element.text for element in root.iter(f"{SVG}text")]
    assert [element.text for element in root.iter(f"{SVG}title")] == ["3 < 4"]
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'a "b" <c>'
    assert "width" not in root.attrib


def test_ids_are_used_and_unique_in_the_page():
    parts = [ElementTree.fromstring(chart_svg(figure(), name, "c")) for name in ("a-0", "b-0")]
    ids = [element.get("id") for part in parts for element in part.iter() if element.get("id")]
    assert len(set(ids)) == len(ids) > 0
    for name, part in zip(("a-0", "b-0"), parts, strict=True):
        own = {element.get("id") for element in part.iter()}
        for element in part.iter():
            for key, value in element.items():
                if key == "href" or "url(#" in value:
                    target = value.partition("#")[2].rstrip(")")
                    assert target in own
                    assert target.startswith(name)


def test_the_same_figure_gives_the_same_text():
    assert chart_svg(figure(), "chart-0", "c") == chart_svg(figure(), "chart-0", "c")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=15, deadline=None)
@pytest.mark.filterwarnings("ignore:Glyph")  # of fonts that are not here
def test_no_title_breaks_out(text):
    drawn = chart_svg(figure(title=text, said=text), "chart-0", text)
    tags = {element.tag for element in ElementTree.fromstring(drawn).iter()}
    assert tags <= {f"{SVG}{t}" for t in ("svg", "g", "path", "defs", "use", "text", "title",
                                          "clipPath", "rect")}  # fmt: skip
