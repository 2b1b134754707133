"""Figures that are not drawn: a second for each that no test looks at.

What figures show is tested in `report/`; the main run of each recipe draws its own.
"""

from __future__ import annotations

import base64
from typing import Any
from unittest import mock

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>'
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
    "gg=="
)


def undrawn() -> Any:
    """A context in which matplotlib writes an empty picture in place of each figure."""
    return mock.patch("matplotlib.figure.Figure.savefig", _save)


def _save(figure: object, place: Any, *, format: str = "png", **_: object) -> None:
    content = SVG if format == "svg" else PNG
    if hasattr(place, "write"):
        place.write(content)
    else:
        with open(place, "wb") as file:
            file.write(content)
