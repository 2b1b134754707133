"""Every cheap score against exact gradients on real instruction data: the project's main table.

    OMP_NUM_THREADS=1 python benchmarks/fidelity.py --data DATA --model MODEL --work WORK \
        --text-encoder FOLDER

Runs ``influcoder recipe=fidelity`` with a fresh adapter (750 samples to learn from) and with one
warmed up by an epoch over its pool (4,500 samples), three seeds each, and writes
``benchmarks/results/fidelity.json``. With the same ``--work`` it goes on where it stopped;
``--only warm --seeds 0`` lets several processes share the work.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from pathlib import Path

import report
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from real_chain import TEMPLATE

from influcoder_lightning import load_rows, write_jsonl
from influcoder_lightning.cli import run_recipe
from influcoder_lightning.studies.fidelity.table import merge_parts

STATES = {"fresh": (750, [75, 300]), "warm": (4500, [75, 300, 1500])}
SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text-encoder", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=tuple(STATES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=3, help="of the published distillation")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "fidelity.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.work.mkdir(parents=True, exist_ok=True)
    write_rows(options.data, options.work)
    parts = []
    for state in (options.only,) if options.only else STATES:
        run_recipe("fidelity", config(options, state), options.work / state)
        files = sorted((options.work / state / "parts").glob("*.json"))
        parts += [json.loads(file.read_text()) for file in files]
    if options.only or tuple(options.seeds) != SEEDS:
        return
    result = merge_parts(parts) | {
        "seeds": list(SEEDS),
        "settings": {part["state"]: part["settings"] for part in parts},
        "environment": report.environment(),
    }
    report.write(options.out, result)
    for row in result["rows"]:
        print(
            f"{row['adapter']:6s}{row['name']:62s}{row['per_query']:7.3f}{row['aggregated']:7.3f}"
            f"{row['ms_per_sample']:9.2f}{row['bytes_per_sample']:9.0f}"
        )


def write_rows(data: Path, work: Path) -> None:
    """Queries from bbh; a pool of bbh, gsm8k and alpaca in equal parts."""
    rng = random.Random(0)
    bbh, gsm8k, alpaca = (
        load_rows(data / f"{name}.jsonl") for name in ("bbh", "gsm8k", "alpaca_gpt4")
    )
    for rows in (bbh, gsm8k, alpaca):
        rng.shuffle(rows)
    write_jsonl(bbh[:700], work / "query.jsonl")
    write_jsonl(bbh[700:3000] + gsm8k[:2300] + alpaca[:2300], work / "pool.jsonl")


def config(options: argparse.Namespace, state: str) -> DictConfig:
    """The recipe's configuration for one state of the adapter."""
    n_fit, curve = STATES[state]
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["recipe=fidelity"])
    values = {
        "model.name": options.model,
        "model.template": TEMPLATE,
        "data.pool": str(options.work / "pool.jsonl"),
        "data.query": str(options.work / "query.jsonl"),
        "influence.text_encoder": options.text_encoder,
        "train.max_length": 192,
        "train.precision": "bf16-mixed",
        "fidelity.states": [state],
        "fidelity.n_pool.fit": n_fit,
        "fidelity.curve": curve,
        "fidelity.distil.epochs": options.epochs,
        "fidelity.distil.max_tokens": 128,
        "seeds": options.seeds,
    }
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    return cfg


if __name__ == "__main__":
    main()
