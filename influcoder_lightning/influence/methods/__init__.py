"""The ranking methods of the package, one per file; the file has the method's name."""
