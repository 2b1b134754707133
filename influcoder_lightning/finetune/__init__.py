"""LoRA fine-tuning as the recipes do it: models, training, training again on other samples."""

from influcoder_lightning.renamed import names_of_module

__getattr__ = names_of_module(__name__, "training")
