"""The HDF5 store: one place that knows the file layout (`schema`), writing and reading."""

from influcoder_lightning.renamed import names_of_files

__getattr__ = names_of_files(__name__)
