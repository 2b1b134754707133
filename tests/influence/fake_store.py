"""A store in memory with the reader's interface, filled at random. No shared code with methods."""

import numpy as np
import pandas as pd

from influcoder_lightning.errors import StoreError


def unit(array):
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float16)


class FakeTower:
    """Text to a unit vector that depends on nothing but the text."""

    def __init__(self, width):
        self.width = width
        self.batches = []

    def encode(self, rows):
        self.batches.append(len(rows))
        out = np.zeros((len(rows), self.width), dtype=np.float32)
        for place, row in enumerate(rows):
            text = row["prompt"] + "|" + row["response"]
            seed = sum((at + 1) * ord(c) for at, c in enumerate(text))
            vector = np.random.default_rng(seed).normal(size=self.width)
            out[place] = vector / np.linalg.norm(vector)
        return out

    def expect(self, rows):
        return self.encode(rows), np.array([1 / len(row["response"]) for row in rows])


class FakeStore:
    """`n_rows` rows of about `n_rows / 2` samples over `n_windows` windows, `m` queries."""

    path = "somewhere/influence"

    def __init__(self, n_rows=40, m=5, d=8, n_windows=3, seed=0, string_ids=False, tower=True):
        rng = np.random.default_rng(seed)
        ids = rng.integers(0, max(1, n_rows // 2), size=n_rows) + 100
        self.sample_ids = ids.astype(np.int64)
        if string_ids:
            self.sample_ids = np.array([f"s{i}" for i in ids], dtype=object)
        self.query_ids = np.array([f"q{i}" for i in range(m)], dtype=object)
        self.d, self.n_windows = d, n_windows
        self._codes = unit(rng.normal(size=(n_rows, d)))
        self._query_codes = unit(rng.normal(size=(n_windows, m, d)))
        self._end_codes = unit(rng.normal(size=(m, d)))
        self._query_norms = rng.uniform(0.5, 3, size=(n_windows, m))
        # Windows in no order: a reader that merged ranks has rows of several windows in a block.
        self._records = pd.DataFrame(
            {
                "sample_id": self.sample_ids,
                "window": rng.integers(0, n_windows, size=n_rows),
                "epoch": 0,
                "step": np.arange(n_rows),
                "n_tokens": rng.integers(1, 50, size=n_rows),
                "loss": rng.uniform(0.1, 5, size=n_rows),
                "grad_norm": rng.uniform(0.1, 4, size=n_rows),
                "code_length": rng.uniform(0.1, 1, size=n_rows),
                "learning_rate": rng.uniform(1e-4, 1e-3, size=n_rows),
                "tower_version": 0,
            }
        )
        self._tower = FakeTower(d) if tower else None
        self.texts = [
            {"prompt": f"what is question {w}", "response": f"answer {w}"}
            for w in ["one", "two", "three", "four", "five", "six"][:m]
        ]
        self.code_slices = []

    def records(self):
        return self._records

    def column_names(self):
        return [*self._records, "code"]

    def column(self, name):
        return self._codes if name == "code" else self._records[name].to_numpy()

    def blocks(self, names, block_rows):
        for start in range(0, len(self._codes), block_rows):
            rows = slice(start, min(start + block_rows, len(self._codes)))
            self.code_slices.append(rows)
            columns = {n: self._codes if n == "code" else self.column(n) for n in names}
            yield rows, {name: values[rows].copy() for name, values in columns.items()}

    def query_codes(self, window=None, end=False):
        return self._end_codes if end else self._query_codes[-1 if window is None else window]

    def query_records(self, window=None, end=False):
        norms = self._query_norms[-1 if window is None else window]
        columns = {"window": window, "grad_norm": norms, "code_length": norms / 4}
        columns["tower_version"] = 0
        return pd.DataFrame({"sample_id": self.query_ids, **columns})

    def query_texts(self):
        return self.texts

    def text_tower(self):
        if self._tower is None:
            raise StoreError("this run had no text tower")
        return self._tower
