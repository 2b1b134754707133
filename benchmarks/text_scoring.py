"""How much cheaper is it to score a text than to compute its influence features?

    OMP_NUM_THREADS=1 python benchmarks/text_scoring.py --text-encoder FOLDER
    python benchmarks/text_scoring.py --text-encoder FOLDER --shape 3b --device cuda

Milliseconds per sample, CPU time of one thread on a CPU and wall time on a GPU: the text tower with
a sentence encoder, its two halves alone (the encoder; the kernel regression, which is a text tower
by itself), and `extract_features` of a frozen model (forward, backward, sketch). Texts and model
inputs have the same number of tokens. Encoder and model are on the same device. Results go into
``benchmarks/results/text_scoring.json``, one entry per setting.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import report
import shapes
import torch
from capture_cost import keep, sentence_encoder
from torch.utils.data import DataLoader

from influcoder_lightning import collate_with_sample_ids, extract_features, with_sample_ids
from influcoder_lightning.encoder.sentence_tower import SentenceTower, encode_texts
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.encoder.text_tower import TextTower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--shape", default="0.5b", help="a name of `shapes.py`, or a folder")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the model")
    parser.add_argument("--batch", type=int, default=2, help="of the model")
    parser.add_argument("--batches", type=int, default=2, help="timed ones; one more goes before")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--seen", type=int, default=1000, help="texts the tower has learned from")
    parser.add_argument("--rounds", type=int, default=3, help="of scoring")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "text_scoring.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    if options.device == "cpu":
        torch.set_num_threads(1)
    scoring = {length: score_cost(length, options) for length in options.lengths}
    model = shapes.build(options.shape, device=options.device, dtype=options.dtype, warm=True)
    for length, entry in scoring.items():
        entry["features"] = feature_cost(model, length, options)
        entry["times cheaper"] = entry["features"] / entry["text tower"]
        kind = f"{options.device} {options.dtype}"
        name = f"{Path(options.shape).name}, {length} tokens, {kind}"
        clock = f"CPU time, {shapes.threads()}" if options.device == "cpu" else "wall time"
        settings = {k: getattr(options, k) for k in ("batch", "batches", "texts", "seen", "rounds")}
        keep(
            options.out,
            name,
            {
                "clock": clock,
                **settings,
                "ms_per_sample": entry,
                "device": shapes.device_name(options.device),
                "environment": report.environment(),
            },
        )
        print(name, {k: f"{v:.2f}" for k, v in entry.items()}, flush=True)


def now(device: str) -> float:
    """Milliseconds of the clock that is judged by."""
    shapes.synchronise(device)
    return 1000 * (process_time() if device == "cpu" else perf_counter())


def score_cost(length: int, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds per text of this many tokens: the whole tower, and its halves."""
    sentences = SentenceTower(sentence_encoder(options.text_encoder, options.device), 512)
    tokenizer = sentences.model.tokenizer
    seen = shapes.random_texts(options.seen, length, tokenizer, seed=1)
    texts = shapes.random_texts(options.texts, length, tokenizer, seed=2)
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(len(seen), 512)).astype(np.float32)
    # What the embeddings of the texts seen are does not matter for what it costs.
    dense = rng.normal(size=(len(seen), 512)).astype(np.float32)
    whole = TextTower(TextHead.fit(seen, codes, dense), sentences.model)
    kernel = TextTower(TextHead.fit(seen, codes))
    return {
        "text tower": timed(lambda: whole.expect(texts), options),
        "sentence encoder": timed(lambda: encode_texts(sentences.model, texts), options),
        "kernel tower": timed(lambda: kernel.expect(texts), options),
    }


def timed(work: Callable[[], Any], options: argparse.Namespace) -> float:
    """Milliseconds per text: the median round, after one to warm up."""
    spent = []
    for _ in range(1 + options.rounds):
        start = now(options.device)
        work()
        spent.append((now(options.device) - start) / options.texts)
    return statistics.median(spent[1:])


def feature_cost(model: Any, length: int, options: argparse.Namespace) -> float:
    """Milliseconds per sample of `extract_features`, without its beginning and its end."""
    rows = shapes.random_rows(
        options.batch * (options.batches + 2), length, model.config.vocab_size
    )
    batches = DataLoader(
        with_sample_ids(rows), batch_size=options.batch, collate_fn=collate_with_sample_ids()
    )
    stamps: list[float] = []

    def stamped() -> Iterator[Any]:
        for batch in batches:
            stamps.append(now(options.device))
            yield batch

    with tempfile.TemporaryDirectory() as folder:
        extract_features(model, stamped(), f"{folder}/store", show_progress=False, co_train=False)
    return (stamps[-1] - stamps[1]) / (options.batch * options.batches)


if __name__ == "__main__":
    main()
