"""Rows, stable sample ids, tokenised samples, and the built-in synthetic instruction data."""

from influcoder_lightning.renamed import names_of_files

__getattr__ = names_of_files(__name__)
