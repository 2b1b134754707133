"""A matplotlib figure as SVG inside a page: its colours and font are the page's."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from influcoder_lightning.report.press.style import ACCENT, GRID, HOVER, INK, MUTED, OTHER, PALETTE

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
# Colour -> custom property of page/style.css. White is the ground that rims and gaps show.
_COLOURS = {
    INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent", OTHER: "other",
    "#ffffff": "ground", "#000000": "ink",
} | {colour: f"series-{place}" for place, colour in enumerate(PALETTE)}  # fmt: skip
_COLOUR = re.compile("|".join(_COLOURS), re.IGNORECASE)
# matplotlib sets a list of fonts that few screens have; without it, the page's font is used.
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOST_BYTES = 400_000
_PIXELS_PER_POINT = 1.3  # so that a 9 point label is as large as the page's small print

ElementTree.register_namespace("", _SVG.strip("{}"))


def chart_svg(figure: Figure, name: str, caption: str) -> str:
    """The `<svg>` element; the same figure and name give the same text.

    A figure with so many points that the drawing would outweigh the page becomes an image.

    Args:
        figure: text stays text; artists marked by `style.hover` get a `<title>`.
        name: unique in the page, of letters, digits and hyphens; all ids start with it.
        caption: what a screen reader says.
    """
    caption = _NOT_XML.sub(" ", caption)
    root = ElementTree.fromstring(_NOT_XML.sub(" ", _drawn(figure, "svg", name).decode()))
    _drop_declarations(root)
    _rename_ids(root, name)
    for element in root.iter():
        for key, value in element.items():
            if key in ("style", "fill", "stroke"):
                element.set(key, _COLOUR.sub(_property, _FONT.sub("", value)))
        # What pretty-printing adds; text keeps its spaces.
        if element.tag not in (f"{_SVG}text", f"{_SVG}tspan", f"{_SVG}title"):
            element.text = None
        element.tail = None
    points = [float(side) for side in root.attrib["viewBox"].split()[2:]]
    _label(root, points, caption)
    text = ElementTree.tostring(root, encoding="unicode")
    return text if len(text) <= _MOST_BYTES else _image(figure, points, caption)


def _drawn(figure: Figure, form: str, name: str) -> bytes:
    buffer = io.BytesIO()
    # Without the salt, ids would differ from run to run, and be equal within a page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(
            buffer,
            format=form,
            dpi=110,
            facecolor="none" if form == "svg" else "white",
            metadata={"Date": None} if form == "svg" else None,
        )
    return buffer.getvalue()


def _property(found: re.Match[str]) -> str:
    return f"var(--{_COLOURS[found[0].lower()]})"


def _drop_declarations(root: ElementTree.Element) -> None:
    """Metadata, and a style sheet that would hold for the whole page (page/style.css has it)."""
    for parent in root.iter():
        for child in list(parent):
            if child.tag == f"{_SVG}style" or child.tag.endswith("}metadata"):
                parent.remove(child)


def _rename_ids(root: ElementTree.Element, name: str) -> None:
    """Ids that something refers to become unique in the page; hover texts become titles."""
    used = {value[1:] for e in root.iter() if (value := e.get(_HREF, "")).startswith("#")}
    used |= {
        found for e in root.iter() for v in e.attrib.values() for found in _REFERENCE.findall(v)
    }
    for element in root.iter():
        own = element.attrib.pop("id", "")
        if own.startswith(HOVER):
            title = ElementTree.Element(f"{_SVG}title")
            title.text = own.removeprefix(HOVER)
            element.insert(0, title)
        elif own in used:
            element.set("id", f"{name}-{own}")
        if target := element.attrib.pop(_HREF, None):
            # Charts refer to their own parts; an image inside of one is data.
            element.set("href", f"#{name}-{target[1:]}" if target.startswith("#") else target)
        for key, value in element.items():
            if "url(#" in value:
                element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))


def _label(root: ElementTree.Element, points: list[float], caption: str) -> None:
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    width = round(points[0] * _PIXELS_PER_POINT)
    root.attrib |= {"role": "img", "aria-label": caption, "style": f"--width: {width}px"}


def _image(figure: Figure, points: list[float], caption: str) -> str:
    data = base64.b64encode(_drawn(figure, "png", "")).decode()
    width = round(points[0] * _PIXELS_PER_POINT)
    image = ElementTree.Element(
        "img", alt=caption, src=f"data:image/png;base64,{data}", style=f"--width: {width}px"
    )
    return ElementTree.tostring(image, encoding="unicode")
