"""What does a pool take in memory: rows, their ids and their tokens?

    OMP_NUM_THREADS=1 python benchmarks/pool_memory.py

Pools of short rows (a question and an answer, some 100 characters) are read, counted and tokenised,
each in a process of its own, and what it grows by is divided by the rows that it has more than the
one before. Ten million rows are worked out from that. Writes
``benchmarks/results/pool_memory.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import report

TEN_MILLION = 10_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 250_000, 500_000])
    parser.add_argument("--out", type=Path, default=report.RESULTS / "pool_memory.json")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = []
    for n in options.rows:
        with context.Pool(1) as pool:
            found.append(pool.apply(measured, (n,)))
        print(found[-1], flush=True)
    first, last = found[0], found[-1]
    n_more = last["rows"] - first["rows"]
    per_row = (last["peak_bytes"] - first["peak_bytes"]) / n_more
    seconds = (last["seconds"] - first["seconds"]) / n_more
    result = {
        "pools": found,
        "bytes_per_row": per_row,
        "characters_per_row": last["characters"] / last["rows"],
        "tokens_per_row": last["tokens"] / last["rows"],
        "seconds_per_million_rows": 1e6 * seconds,
        "gib_of_ten_million_rows": TEN_MILLION * per_row / 2**30,
        "environment": report.environment(),
    }
    report.write(options.out, result)
    print({k: v for k, v in result.items() if k not in ("pools", "environment")})


def measured(n: int) -> dict[str, Any]:
    """Peak memory of a process that reads and tokenises n rows, beyond what it had before."""
    from influcoder_lightning import load_rows, tokenize_rows
    from influcoder_lightning.data.census import census

    tokenizer = byte_pairs()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.jsonl"
        with path.open("w") as file:
            for i in range(n):
                row = {"prompt": f"What is the name of the town number {i} on the old map?"}
                row["response"] = f"It is called the town of {i * 7919 % 1_000_003}, by the river."
                file.write(json.dumps(row) + "\n")
        tokenize_rows(load_rows(path)[:100], tokenizer, "{prompt} {response}", 512)
        forget_peak()
        before, begun = resident(), perf_counter()
        rows = load_rows(path)
        census(rows)
        dataset = tokenize_rows(rows, tokenizer, "{prompt} {response}", 512)
        return {
            "rows": len(dataset),
            "peak_bytes": resident() - before,
            "seconds": perf_counter() - begun,
            "tokens": sum(dataset.length(i) for i in range(len(dataset))),
            "characters": sum(len(row["prompt"]) + len(row["response"]) for row in rows),
        }


def resident() -> int:
    """Bytes that this process has had at the most since `forget_peak` (Linux alone knows)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """The peak is what is there now; what was freed before does not count."""
    Path("/proc/self/clear_refs").write_text("5")


def byte_pairs() -> Any:
    """A small tokenizer, trained here."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    texts = [
        f"What is the name of the town number {i} on the old map by the river?" for i in range(99)
    ]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")


if __name__ == "__main__":
    main()
