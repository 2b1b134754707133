"""One valuation, whoever drives it: rows into segments, segments into a store, and going on."""

from influcoder_lightning.renamed import names_of_module

__getattr__ = names_of_module(__name__, "valuation")
