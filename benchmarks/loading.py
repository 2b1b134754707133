"""How much memory does loading a model take beside its weights?

    python benchmarks/loading.py --model FOLDER [--gguf FILE]

Each way to load (`model.dtype`, `model.quantization`, a GGUF file) in a process of its own: bytes
of the loaded weights, and the peak of the memory that loading took, without pages of the file,
which the system takes back when it needs them. A ratio of 1 means one copy; 0 that the weights are
the file's own pages. Writes ``benchmarks/results/loading.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import report

WAYS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "auto": {"dtype": "auto"},
    "8bit": {"quantization": "8bit"},
    "4bit": {"quantization": "4bit"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--one", help="of the ways, in this process")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "loading.json")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.model)))
        return
    places = dict.fromkeys(WAYS, options.model)
    if options.gguf:
        places["GGUF to float32"] = options.gguf
    rows = []
    for way, place in places.items():
        command = [sys.executable, __file__, "--model", str(place), "--one", way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{way}: {done.stderr.strip().splitlines()[-1]}")
            continue
        row = {"way": way, **json.loads(done.stdout.splitlines()[-1])}
        rows.append(row)
        print("{way:<16} {weights_mb:7.0f} MB, peak {peak_mb:7.0f} MB: {ratio:.2f}".format(**row))
    report.write(options.out, {"model": options.model.name, "ways": rows})


def one(way: str, place: Path) -> dict[str, Any]:
    """Load in this process; megabytes are 10^6 bytes."""
    # Everything that loading imports is there before the memory is looked at.
    from transformers import AutoConfig, BitsAndBytesConfig  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    from influcoder_lightning.finetune.models import load_base_model

    with Watched() as watched:
        model = load_base_model(str(place), **WAYS.get(way, {}))
    tensors = {t.data_ptr(): t.nbytes for t in [*model.parameters(), *model.buffers()]}
    weights = sum(tensors.values())
    return {
        "weights_mb": round(weights / 1e6, 1),
        "peak_mb": round(watched.peak / 1e6, 1),
        "ratio": round(watched.peak / weights, 3),
    }


class Watched:
    """Looks every few milliseconds how much memory of its own the process has.

    Attributes:
        peak: bytes, beyond those at the start.
    """

    def __enter__(self) -> Watched:
        self._start = self._most = self._own()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self._most, self._own()) - self._start

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self._most = max(self._most, self._own())

    @staticmethod
    def _own() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


if __name__ == "__main__":
    main()
