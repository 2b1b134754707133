"""The callback, and its manners towards a Trainer."""

from influcoder_lightning.renamed import names_of_module

__getattr__ = names_of_module(__name__, "influence_callback")
