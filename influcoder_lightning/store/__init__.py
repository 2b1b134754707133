"""The HDF5 store: one place that knows the file layout (`schema`), writing and reading."""
