"""Malformed saved models: adapters, base models and tokenizers."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers  # noqa: F401  (here, and not where memory is limited)
from conftest import tiny_llama, tiny_peft
from corpus import Case, canary_pickle, fifo_of, safetensors
from corpus_towers import HEADERS, Files, arrays, folder_with, settings
from safetensors.numpy import load, save

from influcoder_lightning.encoder.text_tower import TextTower
from influcoder_lightning.errors import ConfigError, StoreError
from influcoder_lightning.finetune.models import load_adapter, load_base_model, load_tokenizer


@functools.cache
def adapter() -> dict[str, bytes]:
    """The files of a valid adapter."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_peft().save_pretrained(folder)
        names = ("adapter_config.json", "adapter_model.safetensors")
        return {name: Path(folder, name).read_bytes() for name in names}


def _config(**changes: Any) -> Callable[[Path], bytes]:
    def content(folder: Path) -> bytes:
        return json.dumps(json.loads(adapter()["adapter_config.json"]) | changes).encode()

    return content


HANGS = "(a|a?)+" * 12 + "$"


def _weights(
    r: int | None = None, prefix: str = "", extra: dict[str, np.ndarray] | None = None
) -> Callable[[Path], bytes]:
    """The adapter's weights with others beside them; with ``r``, one pair of matrices alone."""

    def content(folder: Path) -> bytes:
        tensors = load(adapter()["adapter_model.safetensors"])
        if r is not None:
            tensors = {
                f"{prefix}lora_A.weight": np.zeros((r, 4), "f4"),
                f"{prefix}lora_B.weight": np.zeros((4, r), "f4"),
            }
        return save(tensors | (extra or {}))

    return content


_MODEL, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER: dict[str, Files] = {
    "no settings": {_CONFIG: None},
    "no weights": {_MODEL: None},
    "settings that are empty": {_CONFIG: b""},
    "settings that are a list": {_CONFIG: b"[1]"},
    "settings without a kind": {_CONFIG: b"{}"},
    "settings nested deeply": {_CONFIG: b"[" * 100_000},
    "settings that are no UTF-8": {_CONFIG: b'{"\xff": 1}'},
    "settings that are a FIFO": {_CONFIG: fifo_of(_CONFIG)},
    "another kind": {_CONFIG: _config(peft_type="../../x")},
    "a rank of 10^9": {_CONFIG: _config(r=10**9)},
    "a rank below zero": {_CONFIG: _config(r=-4)},
    "a rank of text": {_CONFIG: _config(r="four")},
    "another rank": {_CONFIG: _config(r=2)},
    "a rank of 10^9 in a pattern": {_CONFIG: _config(rank_pattern={"q_proj": 10**9})},
    "modules of another model": {_MODEL: _weights(r=8, prefix="base_model.model.nothing.")},
    "a tensor that makes any rank a size": {
        _CONFIG: _config(r=10**6),
        _MODEL: _weights(extra={"x": np.zeros(10**6, "u1")}),
    },
    "a regular expression that never ends, as rank": {_CONFIG: _config(rank_pattern={HANGS: 2})},
    "a regular expression that never ends, as alpha": {_CONFIG: _config(alpha_pattern={HANGS: 2})},
    "a regular expression that never ends, kept whole": {_CONFIG: _config(modules_to_save=[HANGS])},
    "everything kept whole": {_CONFIG: _config(modules_to_save=["model", "layers", "0"])},
    "a million patterns": {_CONFIG: _config(rank_pattern={f"m{i}": 2 for i in range(20_000)})},
    "ranks that are no pattern": {_CONFIG: _config(rank_pattern=[1])},
    "settings of 2 MB": {_CONFIG: _config(auto_mapping="x" * 2**21)},
    "a beginning of 10^9 rounds": {_CONFIG: _config(init_lora_weights="pissa_niter_1000000000")},
    "a beginning with a file to unpickle": {
        _CONFIG: _config(init_lora_weights="corda", corda_config={"cache_file": "x"})
    },
    "layers ten thousand times": {_CONFIG: _config(layer_replication=[[0, 10_000]])},
    "somebody's module": {_CONFIG: _config(megatron_config={"a": 1})},
    "a setting of tomorrow": {_CONFIG: _config(lora_of_tomorrow=[1])},
    "an alpha beyond doubles": {_CONFIG: _config(lora_alpha=10**400)},
    "an alpha that is NaN": {_CONFIG: _config(lora_alpha=float("nan"))},
    "a flag of text": {_CONFIG: _config(use_dora="yes")},
    "for a classifier": {_CONFIG: _config(task_type="SEQ_CLS")},
    "no weights of a LoRA": {_MODEL: _weights(r=8, prefix="nothing.")},
    "a header of 10^13 bytes": {_MODEL: safetensors(b"{}", declared=10**13)},
    "a pickle": {_MODEL: None, "adapter_model.bin": canary_pickle},
    "weights that are a FIFO": {_MODEL: fifo_of(_MODEL)},
    **{f"weights: {name}": {_MODEL: data} for name, data in HEADERS.items()},
}

MODEL: dict[str, Files] = {
    "an empty folder": {},
    "settings that are empty": {"config.json": b""},
    "settings that are a list": {"config.json": b"[1]"},
    "an unknown kind": {"config.json": b'{"model_type": "../../x"}'},
    "code of its own": {
        "config.json": b'{"model_type": "x", "auto_map": {"AutoConfig": "c.C",'
        b' "AutoModelForCausalLM": "c.M"}}',
        "c.py": b"open('canary', 'w')",
    },
    "settings that are a FIFO": {"config.json": fifo_of("config.json")},
    "weights that are a pickle": {
        "config.json": lambda folder: tiny_llama().config.to_json_string().encode(),
        "pytorch_model.bin": canary_pickle,
    },
    "weights cut off": {
        "config.json": lambda folder: tiny_llama().config.to_json_string().encode(),
        "model.safetensors": safetensors(b"{}", declared=10**12),
    },
}


_ADAPTER = {name: lambda folder, name=name: adapter()[name] for name in (_CONFIG, _MODEL)}


def _sentences(kind: str) -> bytes:
    module = {"idx": 0, "name": "0", "path": "", "type": kind}
    return json.dumps([module]).encode()


# Beside a head that expects sentence embeddings of three numbers.
SENTENCES: dict[str, Files] = {
    "no folder": {},
    "an empty folder": {"text/nothing": b""},
    "settings that are a FIFO": {"text/modules.json": fifo_of("text/modules.json")},
    "settings that are a pickle": {"text/modules.json": canary_pickle},
    "settings nested deeply": {"text/modules.json": b"[" * 100_000},
    "code of its own": {"text/modules.json": _sentences("c.C"), "text/c.py": b"open('x', 'w')"},
    "a function of Python's": {"text/modules.json": _sentences("os.mkfifo")},
    "modules that are missing": {
        "text/modules.json": _sentences("sentence_transformers.models.Transformer")
    },
}


def _tower(files: Files) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        head = {
            "text_head/config.json": settings(dense_dim=3),
            "text_head/head.safetensors": arrays(dense=np.ones((6, 3), "f4")),
        }
        return folder_with(head | files)(folder)

    return make


CASES = [
    *(
        Case("text tower", name, _tower(files), TextTower.load, "text tower in", StoreError)
        for name, files in SENTENCES.items()
    ),
    *(
        Case(
            "adapter",
            name,
            folder_with(_ADAPTER | files),
            lambda folder: load_adapter(tiny_llama(), folder),
            "adapter",
            ConfigError,
            where="given",
        )
        for name, files in ADAPTER.items()
    ),
    *(
        Case(
            "model",
            name,
            folder_with(files),
            lambda f: load_base_model(str(f)),
            "model.name",
            ConfigError,
        )
        for name, files in MODEL.items()
    ),
    *(
        Case(
            "tokenizer",
            name,
            folder_with(files),
            lambda f: load_tokenizer(str(f)),
            "model.name",
            ConfigError,
        )
        for name, files in {
            "an empty folder": {},
            "rubbish": {"tokenizer.json": b"{]"},
            "a pickle": {"tokenizer.json": canary_pickle},
            "a FIFO": {"tokenizer.json": fifo_of("tokenizer.json")},
        }.items()
    ),
]
