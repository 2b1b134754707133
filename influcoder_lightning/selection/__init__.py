"""From a ranking to a subset: strategies, and what they must not take twice."""

from influcoder_lightning.renamed import names_of_module

__getattr__ = names_of_module(__name__, "selection")
