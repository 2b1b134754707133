"""Rows, stable sample ids, tokenised samples, and the built-in synthetic instruction data."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "EpochLoader": "epochs",
    "SampleIdCollator": "sample_ids",
    "SampleIdDataset": "sample_ids",
    "batch_labels": "sample_ids",
    "batch_sample_ids": "sample_ids",
    "collate_with_sample_ids": "sample_ids",
    "with_sample_ids": "sample_ids",
    "load_rows": "rows",
    "row_ids": "rows",
    "write_jsonl": "rows",
    "SampleCollator": "tokenization",
    "Template": "template",
    "TokenizedDataset": "tokenization",
    "TruncationReport": "tokenization",
    "collate_samples": "tokenization",
    "default_template": "template",
    "tokenize_rows": "tokenization",
    "check_overlap": "overlap",
    "SKILLS": "skills",
    "SkillData": "skills",
    "make_skill_data": "skills",
    "build_tiny_llama": "tiny_model",
    "build_tokenizer": "tiny_model",
    "pretrain": "tiny_model",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    # Exports load on first use, so that importing the package does not import torch.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
