"""A ranking as two ordinary adapters: scores of any text by forward passes alone."""
