"""Blocks of a page, and how they become HTML, Markdown and SVG; what they say is not known here."""
