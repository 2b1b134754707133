"""In-context probing against a naive double loop over the same samples and queries.

    OMP_NUM_THREADS=1 python benchmarks/icp_speed.py --data DATA --model MODEL

200 samples of alpaca, gsm8k and bbh before 50 queries of each of three tasks. The naive loop makes
one forward pass over the whole text of a pair and one over the query alone, as the definition says;
a second figure leaves the latter out. It runs on a random part of the pairs, in stretches between
ours. Prints a line per task and writes ``benchmarks/results/icp.json``.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import report
import torch

from influcoder_lightning import load_rows
from influcoder_lightning.finetune.models import load_base_model, load_tokenizer
from influcoder_lightning.influence.probing.prober import InContextProber

TASKS = ("bbh/hyperbaton", "bbh/multistep_arithmetic_two", "bbh/temporal_sequences")
N_SAMPLES, N_QUERIES, BLOCK = 200, 50, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--naive-pairs", type=int, default=500, help="of 10,000, per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "icp.json")
    options = parser.parse_args()
    tokenizer, model = load_tokenizer(options.model), load_base_model(options.model).eval()
    rng = random.Random(options.seed)
    bbh = load_rows(options.data / "bbh.jsonl")
    rng.shuffle(bbh)
    queries = {task: [row for row in bbh if row["task"] == task][:N_QUERIES] for task in TASKS}
    asked = {row["prompt"] for rows in queries.values() for row in rows}
    samples = [row for row in bbh if row["prompt"] not in asked][: N_SAMPLES // 3]
    for name in ("alpaca_gpt4", "gsm8k"):
        rows = load_rows(options.data / f"{name}.jsonl")
        samples += rng.sample(rows, (N_SAMPLES - len(samples)) // (2 if name[0] == "a" else 1))
    rng.shuffle(samples)
    tasks = {
        task: measure(model, tokenizer, samples, rows, options.naive_pairs, rng)
        for task, rows in queries.items()
    }
    ours = sum(task["ms_per_pair"] for task in tasks.values())
    result = {
        "speedup_over_naive": sum(t["naive_ms_per_pair"] for t in tasks.values()) / ours,
        "speedup_over_naive_with_zero_shot_once": sum(
            t["naive_one_shot_ms_per_pair"] for t in tasks.values()
        )
        / ours,
        "max_abs_logprob_error": max(t["max_abs_logprob_error"] for t in tasks.values()),
        "n_samples": len(samples),
        "n_queries": N_QUERIES,
        "naive_pairs": options.naive_pairs,
        "seed": options.seed,
        "clock": "CPU time",
        "tasks": tasks,
        "environment": report.environment(),
    }
    report.write(options.out, result)
    print({key: value for key, value in result.items() if not isinstance(value, dict)})


def measure(
    model: Any, tokenizer: Any, samples: list[Any], queries: list[Any], n_naive: int, rng: Any
) -> dict[str, float]:
    """CPU milliseconds per pair of both, and how far they are apart."""
    prober = InContextProber(model, tokenizer, queries)
    begun = process_time()
    prober.zero_shot()
    ours, one_shot_naive, zero_shot_naive, error, n_pairs = process_time() - begun, 0.0, 0.0, 0.0, 0
    begin = prober.prompts.begin
    for start in range(0, len(samples), BLOCK):
        block = samples[start : start + BLOCK]
        begun = process_time()
        found = np.stack([prober.one_shot(row) for row in block])
        ours += process_time() - begun
        for _ in range(n_naive * len(block) // len(samples)):
            i, j = rng.randrange(len(block)), rng.randrange(len(queries))
            query = prober.prompts.queries[j]
            begun = process_time()
            tokens = begin + prober.prompts.demonstration(block[i]) + query.tokens
            value = log_likelihood(model, tokens, query.n_answer)
            middle = process_time()
            log_likelihood(model, begin + query.tokens, query.n_answer)
            one_shot_naive += middle - begun
            zero_shot_naive += process_time() - middle
            error = max(error, abs(value - found[i, j]))
            n_pairs += 1
    ms = 1000 * ours / (len(samples) * len(queries))
    naive = 1000 * (one_shot_naive + zero_shot_naive) / n_pairs
    lengths = [len(query.tokens) for query in prober.prompts.queries]
    line = {
        "speedup_over_naive": naive / ms,
        "ms_per_pair": ms,
        "naive_ms_per_pair": naive,
        "naive_one_shot_ms_per_pair": 1000 * one_shot_naive / n_pairs,
        "max_abs_logprob_error": error,
        "mean_query_tokens": float(np.mean(lengths)),
    }
    print(line, flush=True)
    return line


def log_likelihood(model: Any, tokens: list[int], n_answer: int) -> float:
    """Mean log-likelihood of the last tokens by one forward pass over all of them."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        logits = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
    answer = ids[0, -n_answer:, None]
    return float(logits[-n_answer - 1 : -1].gather(1, answer).mean())


if __name__ == "__main__":
    main()
