"""The package's own forward pass: what of a batch a model gets, and the losses of its samples."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from influcoder_lightning.capture.batches import BatchReader, TokenBatch
from influcoder_lightning.capture.losses import (
    IGNORE_INDEX,
    LossFunction,
    aligned,
    response_tokens,
    summed_losses,
)
from influcoder_lightning.capture.packing import SEGMENT_KEY
from influcoder_lightning.errors import DataError

BatchLoss = Callable[[Any, Any], Tensor]
"""``(module, batch) -> [B]`` mean response losses, differentiable."""

# Forwards that take any keyword argument name them in their documentation only.
_UNNAMED = frozenset(("input_ids", "attention_mask", "position_ids", "token_type_ids"))
_NO_INPUT = frozenset(("labels", SEGMENT_KEY))
_WAY_OUT = (
    "Say what the model gets with `read_batch`, or compute the losses yourself with `batch_loss`, "
    "a method `influence_losses` of the module, or `query_loss`."
)


class SampleLosses:
    """``batch -> [B]`` mean response losses, as the user's own code computes them where it can.

    Args:
        module: may have a method ``influence_losses(batch) -> [B]``.
        model: the language model in it, for the package's own forward otherwise.
        reader: reads batches for that forward.
        batch_loss: ``(module, batch) -> [B]``; comes first.

    Attributes:
        own: the user's code, ``batch -> [B]``; None: there is none.
    """

    def __init__(
        self, module: nn.Module, model: nn.Module, reader: BatchReader, batch_loss: BatchLoss | None
    ) -> None:
        self.model, self._reader = model, reader
        self.own: LossFunction | None = getattr(module, "influence_losses", None)
        if batch_loss is not None:
            self.own = functools.partial(batch_loss, module)

    def __call__(self, batch: object) -> Tensor:
        """Losses [B] of a batch.

        Raises:
            DataError: as `model_inputs` and `logits_of`.
        """
        if self.own is not None:
            return self.own(batch)
        return response_losses(self.model, self._reader.read(batch))


def causal_lm_losses(model: nn.Module, batch: object, labels_key: str | int = "labels") -> Tensor:
    """Mean response loss [B] of a causal LM on a batch, by our own cross-entropy.

    Samples without a response token get 0.

    Raises:
        DataError: as `model_inputs` and `logits_of`.
    """
    return response_losses(model, BatchReader(labels_key=labels_key).read(batch))


def response_losses(model: nn.Module, batch: TokenBatch, *, partial: bool = False) -> Tensor:
    """As `causal_lm_losses`, of a batch that was read; ``partial`` as for `model_inputs`."""
    inputs = model_inputs(model, batch, partial=partial)
    accepted = accepted_inputs(model)
    if accepted is None or "use_cache" in accepted:
        inputs["use_cache"] = False
    logits = logits_of(model(**inputs), batch.labels)
    return summed_losses(logits, batch.labels) / response_tokens(batch.labels).clamp(min=1)


def model_inputs(
    model: nn.Module, batch: TokenBatch, *, partial: bool = False
) -> dict[str, object]:
    """The keyword arguments of the model's forward that ``batch`` holds: all that it accepts.

    Args:
        model: a causal LM, or its PEFT wrapper.
        batch: unpacked.
        partial: leave out tensors that the forward does not accept.

    Raises:
        DataError: nothing that the forward accepts, or a tensor that would be left out.
    """
    fields, accepted = _named(batch), accepted_inputs(model)
    left_out = dropped_inputs(model, batch)
    if left_out and not partial:
        raise DataError(
            f"{', '.join(left_out)} of the batch would not reach the model: the forward of "
            f"{type(_base(model)).__name__} has no such argument. Leave it out of the batch if it "
            f"is no input. {_WAY_OUT}"
        )
    inputs = {
        name: value
        for name, value in fields.items()
        if isinstance(name, str)
        and value is not None
        and name not in _NO_INPUT
        and (_holds_tensor(value) if accepted is None else name in accepted)
    }
    if not inputs:
        raise DataError(
            "cannot tell the model's inputs in a batch of type "
            f"{type(batch.source).__name__}: none is an argument of the forward of "
            f"{type(_base(model)).__name__}. {_WAY_OUT}"
        )
    return inputs


def dropped_inputs(model: nn.Module, batch: TokenBatch) -> list[str]:
    """Names of the batch's tensors that `model_inputs` has no argument for."""
    accepted = accepted_inputs(model)
    return [
        f"`{name}`" if isinstance(name, str) else f"element {name}"
        for name, value in _named(batch).items()
        if _holds_tensor(value)
        and name not in _NO_INPUT
        and not (isinstance(name, str) and (accepted is None or name in accepted))
    ]


def accepted_inputs(model: nn.Module) -> frozenset[str] | None:
    """Names of the arguments of the model's forward; None: any keyword is taken."""
    parameters = inspect.signature(_base(model).forward).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    others = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)
    if others is None:
        return frozenset(named)
    if not named:
        return None
    typed = getattr(others.annotation, "__args__", (None,))[0]  # Unpack[SomeTypedDict]
    return frozenset(named) | _UNNAMED | {"use_cache"} | set(getattr(typed, "__annotations__", ()))


def logits_of(output: object, labels: Tensor) -> Tensor:
    """The logits [B, T, V] in what a causal LM returned: an output object, a tensor, a tuple.

    Raises:
        DataError: there are none, or not one row and position for each label.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = output.get("logits")
    if logits is None and isinstance(output, tuple) and output:
        logits = output[0]
    if not isinstance(logits, Tensor) or not aligned(logits, labels):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise DataError(
            f"the model returned no logits for labels of shape {tuple(labels.shape)} (found: "
            f"{found}). {_WAY_OUT}"
        )
    return logits


def _named(batch: TokenBatch) -> dict[str | int, object]:
    """The batch's fields, with the padding mask of a tuple batch under its name."""
    fields = dict(batch.fields)
    tokens = fields.get("input_ids")
    if "attention_mask" in fields or not isinstance(tokens, Tensor):
        return fields
    unnamed = [name for name in fields if not isinstance(name, str)]
    masks = [name for name in unnamed if _is_padding_mask(fields[name], tokens, batch.labels)]
    if len(masks) == 1:
        fields["attention_mask"] = fields.pop(masks[0])
    return fields


def _is_padding_mask(values: object, tokens: Tensor, labels: Tensor) -> bool:
    """Whether ``values`` are 1 on the samples' tokens and 0 on one and the same filler."""
    if not isinstance(values, Tensor) or values.shape != tokens.shape:
        return False
    outside = values == 0
    binary = bool((outside | (values == 1)).all())
    fillers = tokens[outside].unique()
    targets = labels[:, -tokens.shape[1] :] != IGNORE_INDEX
    return binary and len(fillers) <= 1 and not bool((targets & outside).any())


def _holds_tensor(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensor, value))
    return isinstance(value, torch.Tensor)


def _base(model: nn.Module) -> nn.Module:
    base: nn.Module = getattr(model, "get_base_model", lambda: model)()
    return base
