"""What the rows of a run depend on, as short texts that can be kept and compared.

Order counts, but for queries, whose loader may shuffle. No file times and no paths: a run that was
moved, or whose files were copied, is still the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from influcoder_lightning.capture.batches import BatchReader, TokenBatch
from influcoder_lightning.capture.losses import IGNORE_INDEX
from influcoder_lightning.random_streams import streams_kept

log = logging.getLogger(__name__)
_SAMPLED = 1024  # numbers of each weight matrix
_SINCE_0_2 = ("base_model", "tokenizer")


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def frozen_weights(model: nn.Module) -> str:
    """SHA-256 of names, shapes and evenly spaced values of all weights that are not trained.

    1,024 values of each, rounded to bfloat16: another base model is seen, at the cost of a moment
    for any size, and the same one loaded in another precision counts as the same. Of a sharded
    weight this process's part counts. A model has the same hash without PEFT around it.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or parameter.is_meta:
            continue
        local = parameter.detach()
        local = local.to_local() if hasattr(local, "to_local") else local
        flat = local.reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].cpu()
        if some.is_floating_point():
            some = some.float().bfloat16().view(torch.int16)
        own = name.rpartition("base_model.model.")[2].replace(".base_layer", "")
        digest.update(f"{own} {tuple(parameter.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def tokenizer_identity(tokenizer: Any) -> str:
    """SHA-256 of what turns text into tokens: vocabulary, rules, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = sorted(tokenizer.get_vocab().items())
    if backend is not None:
        rules = json.loads(backend.to_str())
        for set_by_use in ("truncation", "padding"):
            rules.pop(set_by_use, None)
    template = getattr(tokenizer, "chat_template", None)
    return fingerprint([rules, tokenizer.all_special_tokens, template])


def as_kept(now: Mapping[str, Any], before: Any, where: object) -> dict[str, Any]:
    """``now``, to be compared with ``before``, which was read ``where``.

    Without the hashes that release 0.1 did not keep; a warning names them.
    """
    kept = before if isinstance(before, Mapping) else {}
    unknown = [name for name in _SINCE_0_2 if name in now and name not in kept]
    if kept and unknown:
        log.warning(
            "%s was begun by release 0.1, which did not keep %s: whether they are still the same "
            "cannot be checked",
            where,
            ", ".join(unknown),
        )
        return {name: value for name, value in now.items() if name not in unknown}
    return dict(now)


def query_samples(batches: Iterable[Any], reader: BatchReader) -> str:
    """SHA-256 of the tokens of all query samples, whatever their order, batches and padding.

    The random state is left as it was.

    Raises:
        DataError: a batch that ``reader`` cannot read.
    """
    samples: list[str] = []
    with streams_kept():
        for batch in map(reader.read, batches):
            tokens = _attended(batch)
            for row, label in enumerate(batch.labels.cpu()):
                response = label[label != IGNORE_INDEX].tolist()
                samples.append(fingerprint([response, None if tokens is None else tokens[row]]))
    return fingerprint(sorted(samples))


def _attended(batch: TokenBatch) -> list[list[int]] | None:
    """Token ids of each sample without its padding; None where the batch does not say."""
    tokens, mask = batch.fields.get("input_ids"), batch.fields.get("attention_mask")
    if not isinstance(tokens, Tensor) or not isinstance(mask, Tensor):
        return None
    if tokens.shape != mask.shape or batch.segments is not None:
        return None
    kept = mask.bool().cpu()
    return [row[keep].tolist() for row, keep in zip(tokens.cpu(), kept, strict=True)]


def data_set(dataset: Any) -> dict[str, Any]:
    """Length and ids of a data set; None for what it does not tell."""
    ids = getattr(dataset, "ids", None)
    return {
        "samples": len(dataset) if hasattr(dataset, "__len__") else None,
        "sample_ids": fingerprint(ids) if isinstance(ids, list) else None,
    }
