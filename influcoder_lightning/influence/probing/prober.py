"""Log-likelihoods of query answers after a demonstration, each demonstration encoded once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from influcoder_lightning.capture.features import evaluating
from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.errors import CaptureError, ConfigError
from influcoder_lightning.influence.probing.prompts import Prompts, Query

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer."""

_WORTH_SHARING = 192  # tokens that a shared prefix must save to be run on its own
_MOST_TOKENS = 2048  # context by default, where the model allows more


@dataclass(frozen=True)
class _Group:
    """Queries that start alike: the shared tokens, and batches of positions of the queries."""

    prefix: list[int]
    batches: list[list[int]]


class InContextProber:
    """Answers' mean log-likelihood per token, with and without a demonstration.

    A demonstration goes through the model once; its keys and values serve all queries. Tokens that
    many queries start with join them. Queries run in batches of like length, and only the logits
    that predict answers are computed. Equal, up to rounding, to a forward pass over the whole text
    of every (demonstration, query) pair.

    Args:
        model: a causal LM with ordinary attention, plain or PEFT.
        tokenizer: of the model.
        queries: rows with prompt and response.
        max_length: tokens of demonstration and query; None: the model's context, at most 2,048.
        batch_tokens: query tokens in a batch, at most; bounds the memory.
        **prompt: ``template`` and ``separator`` of `Prompts`.

    Raises:
        ConfigError: no queries, or ``max_length`` beyond the model's context.
        DataError: see `Prompts`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        queries: Sequence[TextRow],
        *,
        max_length: int | None = None,
        batch_tokens: int = 1024,
        **prompt: str,
    ) -> None:
        if not queries:
            raise ConfigError("in-context probing needs at least one query.")
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        most = context or _MOST_TOKENS
        self.max_length = min(most, _MOST_TOKENS) if max_length is None else max_length
        if self.max_length > most:
            raise ConfigError(f"max_length={max_length} is beyond the model's {most} tokens.")
        self.prompts = Prompts(tokenizer, queries, self.max_length, **prompt)
        if self.prompts.room < 1:
            raise ConfigError(f"max_length={self.max_length} leaves no room for demonstrations.")
        self._model = model
        self._device = next(model.parameters()).device
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._keep_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        self._groups = _grouped(self.prompts.queries, batch_tokens)

    def zero_shot(self) -> np.ndarray:
        """[M] float64: without a demonstration."""
        return self._all(self.prompts.begin)

    def one_shot(self, row: TextRow) -> np.ndarray:
        """[M] float64: after the demonstration ``row``."""
        return self._all(self.prompts.begin + self.prompts.demonstration(row))

    def _all(self, start: list[int]) -> np.ndarray:
        result = np.full(len(self.prompts.queries), np.nan)
        with evaluating(self._model), torch.inference_mode():
            memory = self._extended(None, start)
            for group in self._groups:
                shared = self._extended(memory, group.prefix)
                for batch in group.batches:
                    result[batch] = self._batch(shared, len(group.prefix), batch)
        return result

    def _extended(self, memory: Memory | None, tokens: list[int]) -> Memory | None:
        """The memory after more tokens (batch of one)."""
        if not tokens:
            return memory
        ids = torch.tensor([tokens], device=self._device)
        logits, cache = self._forward(ids, torch.ones_like(ids), memory, 1)
        del logits
        return [(layer.keys, layer.values) for layer in _ordinary(cache)]

    def _batch(self, memory: Memory | None, n_shared: int, positions: list[int]) -> np.ndarray:
        queries = [self.prompts.queries[i] for i in positions]
        # Padding on the left puts all answers at the end, so that few logits are needed.
        width = max(len(query.tokens) for query in queries) - n_shared
        keep = max(query.n_answer for query in queries)
        ids = torch.zeros(len(queries), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, query in enumerate(queries):
            tokens = query.tokens[n_shared:]
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        # Without a begin token, memory or shared tokens nothing predicts the first one.
        logits, _ = self._forward(ids.to(self._device), mask.to(self._device), memory, keep + 1)
        logits = logits[:, -keep - 1 : -1].float()
        targets = ids[:, -keep:].to(self._device)
        chosen = logits.gather(2, targets[..., None])[..., 0] - logits.logsumexp(dim=2)
        counts = torch.tensor([query.n_answer for query in queries], device=self._device)
        answer = torch.arange(keep, device=self._device) >= keep - counts[:, None]
        sums = torch.where(answer, chosen, 0.0).double().sum(dim=1)
        return np.asarray((sums / counts).cpu().numpy())

    def _forward(
        self, ids: Tensor, mask: Tensor, memory: Memory | None, keep: int
    ) -> tuple[Tensor, DynamicCache]:
        n, past = len(ids), 0
        cache = DynamicCache(config=self._model.config)
        if memory is not None:
            past = memory[0][0].shape[2]
            for layer, (keys, values) in zip(_ordinary(cache), memory, strict=True):
                layer.lazy_initialization(keys, values)
                # A view: the one copy is made where the model appends the batch's own.
                layer.keys = keys.expand(n, -1, -1, -1)
                layer.values = values.expand(n, -1, -1, -1)
        seen = torch.ones(n, past, dtype=mask.dtype, device=mask.device)
        options = {"logits_to_keep": min(keep, ids.shape[1])} if self._keep_logits else {}
        output = self._model(
            input_ids=ids,
            attention_mask=torch.cat([seen, mask], dim=1),
            position_ids=(past + mask.cumsum(1) - 1).clamp_min(0),
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        return output.logits, output.past_key_values


def _ordinary(cache: DynamicCache) -> list[Any]:
    """The cache's layers, if all of them keep all keys and values."""
    for layer in cache.layers:
        if type(layer) is not DynamicLayer:
            raise CaptureError(
                "in-context probing reuses keys and values, and a cache of type "
                f"{type(layer).__name__} does not keep all of them. Use a model with full "
                "attention in every layer."
            )
    return list(cache.layers)


def _grouped(queries: Sequence[Query], batch_tokens: int) -> list[_Group]:
    """Queries with a long common start together; the rest by length."""
    order = sorted(range(len(queries)), key=lambda i: queries[i].tokens)
    # At least the token that predicts the answer stays outside a prefix.
    starts = [queries[i].tokens[: -queries[i].n_answer - 1] for i in order]
    common = [_common(a, b) for a, b in pairwise(starts)]
    groups: list[_Group] = []
    alone: list[int] = []
    for first, last in _shared(common, 0, len(order))[1]:
        members = order[first:last]
        prefix = starts[first][: min(common[first : last - 1])]
        groups.append(_Group(prefix, _batches(queries, members, len(prefix), batch_tokens)))
    grouped = {i for group in groups for batch in group.batches for i in batch}
    alone = [i for i in order if i not in grouped]
    if alone:
        groups.append(_Group([], _batches(queries, alone, 0, batch_tokens)))
    return groups


def _shared(common: Sequence[int], first: int, last: int) -> tuple[int, list[tuple[int, int]]]:
    """Tokens saved, and the ranges [first, last) of sorted queries that share a prefix best.

    ``common[i]`` is what query i has in common with the next. A range saves its prefix for all but
    one of its members, less what one more forward pass costs.
    """
    if last - first < 2:
        return 0, []
    inner = common[first : last - 1]
    length = min(inner)
    together = (last - first - 1) * length - _WORTH_SHARING
    cuts = [first + i + 1 for i, value in enumerate(inner) if value == length]
    apart = 0
    ranges: list[tuple[int, int]] = []
    for begin, end in pairwise([first, *cuts, last]):
        saved, found = _shared(common, begin, end)
        apart, ranges = apart + saved, ranges + found
    return (together, [(first, last)]) if together > max(apart, 0) else (apart, ranges)


def _common(a: list[int], b: list[int]) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def _batches(
    queries: Sequence[Query], members: Sequence[int], n_shared: int, batch_tokens: int
) -> list[list[int]]:
    ordered = sorted(members, key=lambda i: len(queries[i].tokens))
    batches: list[list[int]] = [[]]
    for i in ordered:
        width = len(queries[i].tokens) - n_shared
        if batches[-1] and (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches
