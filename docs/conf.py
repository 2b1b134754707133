"""The documentation site: `python -m sphinx -W --keep-going -b html docs docs/_build/html`."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "influcoder-lightning"
author = copyright = "The influcoder-lightning authors"
release = version = version_of("influcoder-lightning")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "configuration",
    "repository_links",
]
exclude_patterns = ["_build"]

# Nothing here needs a network, to build or to read: no intersphinx, no MathJax, no web fonts.
html_theme = "furo"
html_title = project
html_theme_options = {"top_of_page_buttons": []}
html_show_sphinx = False

myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 4  # as Git hosts make them, so that the same links work on both

napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # docstrings give shapes and dtypes; `numpy.object_` is no link
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
default_role = "literal"  # docstrings write `name` for code
python_use_unqualified_type_names = True
