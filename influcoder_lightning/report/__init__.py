"""Findings of a run, and the press that makes pages of them."""

from influcoder_lightning.renamed import names_of_files

__getattr__ = names_of_files(__name__)
