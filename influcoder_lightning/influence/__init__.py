"""From codes (or text, or records) to one score per sample: one small file per method."""

from influcoder_lightning.renamed import names_of_files

__getattr__ = names_of_files(__name__)
