"""Which linears of a PEFT model carry the gradient, in a fixed and recorded order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from influcoder_lightning.errors import CaptureError

if TYPE_CHECKING:
    from peft.tuners.lora.layer import LoraLayer

# Files of peft's LoRA layers on quantised bases. All of them compute B(A(dropout(x))) with the
# modules `lora_A` and `lora_B`, whose weights are plain floats, and add it to the base's output.
_QUANTISED = ("bnb", "gptq", "awq", "aqlm", "hqq", "eetq", "torchao", "inc")


@dataclass(frozen=True)
class LoraLinear:
    """One trained parameter of a ``lora_A`` or ``lora_B`` linear: its weight, or its bias.

    A bias is the weight of one more input that is always 1, so its gradient is ``sum_t d_t``.

    Attributes:
        name: name of the parameter inside the language model, as in ``named_parameters()``.
        module: the inner ``nn.Linear``.
        shape: (out_features, in_features) of the weight; (out_features, 1) of a bias.
        offset: where its flattened (row-major) weight starts in the flattened gradient.
        tied: other linears that hold the same weight; their calls are calls of this one.
    """

    name: str
    module: nn.Linear
    shape: tuple[int, int]
    offset: int
    tied: tuple[nn.Linear, ...] = ()
    is_bias: bool = False

    @property
    def weight(self) -> Tensor:
        """What is trained."""
        return self.module.bias if self.is_bias else self.module.weight

    def inputs(self, x: Tensor) -> Tensor:
        """What the parameter is multiplied by, of the linear's inputs [..., in_features]."""
        return x.new_ones(*x.shape[:-1], 1) if self.is_bias else x

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]


def find_language_model(module: nn.Module) -> nn.Module:
    """The outermost PEFT model inside ``module``, or model into which LoRA layers were injected.

    Injected: by a ``transformers`` model's ``add_adapter``, or by ``peft.inject_adapter_in_model``
    into any module, which has a ``peft_config`` since.

    Raises:
        CaptureError: there is none, or more than one.
    """
    from peft import PeftModel
    from transformers import PreTrainedModel

    def injected(part: nn.Module) -> bool:
        return isinstance(getattr(part, "peft_config", None), dict)

    kinds: tuple[Callable[[nn.Module], bool], ...] = (
        lambda part: isinstance(part, PeftModel),
        lambda part: isinstance(part, PreTrainedModel),
        injected,
    )
    for kind in kinds:
        found = [m for m in _outermost(module, kind) if any(lora_layers(m))]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise CaptureError(
                f"{type(module).__name__} holds {len(found)} language models with LoRA layers; "
                "influence is defined for one. Keep the others out of the LightningModule."
            )
    others = _other_adapters(module)
    if others:
        raise CaptureError(
            f"{type(module).__name__} has adapter layers of kind {', '.join(others)}, but none of "
            "LoRA: influence features are gradients of `lora_A` and `lora_B`. Train with a "
            "`peft.LoraConfig` (LoRA, rsLoRA, DoRA) to value the data."
        )
    if any(lora_layers(module)):
        raise CaptureError(
            f"{type(module).__name__} has LoRA layers, but no `peft_config` that says what they "
            "are. Make them by peft.get_peft_model or peft.inject_adapter_in_model."
        )
    raise CaptureError(
        f"no LoRA layers found in {type(module).__name__}: influence features are gradients of "
        "LoRA weights. Wrap the model first, e.g. "
        "`peft.get_peft_model(model, LoraConfig(target_modules='all-linear'))`."
    )


def find_lora_linears(model: nn.Module) -> list[LoraLinear]:
    """All trained ``lora_A``/``lora_B`` linears of the active adapters, in module order.

    Raises:
        CaptureError: there is no such linear, or an active adapter uses a layer kind or LoRA
            variant whose per-sample gradients are not supported (the message names it).
    """
    # By parameter: a tied one has one gradient.
    found: dict[int, tuple[str, bool, list[nn.Linear]]] = {}
    for name, layer in lora_layers(model):
        for adapter in layer.active_adapters:
            _refuse_unsupported(name, layer, adapter)
            for part in ("lora_A", "lora_B"):
                if not _has(layer, part, adapter):
                    continue
                linear = getattr(layer, part)[adapter]
                for kind in ("weight", "bias"):  # of `lora_bias=True`
                    parameter = getattr(linear, kind, None)
                    if parameter is None or not parameter.requires_grad:
                        continue
                    full_name = f"{name}.{part}.{adapter}.{kind}"
                    *_, sharing = found.setdefault(id(parameter), (full_name, kind == "bias", []))
                    if all(linear is not known for known in sharing):
                        sharing.append(linear)
    linears: list[LoraLinear] = []
    offset = 0
    for name, is_bias, (linear, *tied) in found.values():
        shape = (linear.out_features, 1 if is_bias else linear.in_features)
        linears.append(LoraLinear(name, linear, shape, offset, tuple(tied), is_bias))
        offset += shape[0] * shape[1]
    if not linears:
        raise CaptureError(
            "no LoRA layers of an active adapter are trainable: every `lora_A`/`lora_B` weight "
            "has requires_grad=False. Activate the adapter to train with `model.set_adapter(...)`."
        )
    return linears


def uncaptured_parameters(model: nn.Module, linears: list[LoraLinear]) -> list[str]:
    """Names of trainable parameters whose gradient is no part of the influence feature."""
    captured = {id(linear.weight) for linear in linears}
    return [
        name for name, p in model.named_parameters() if p.requires_grad and id(p) not in captured
    ]


def compiled_parts(module: nn.Module) -> list[str]:
    """Names of the parts of ``module`` that run through torch.compile."""
    return [
        name or type(module).__name__
        for name, child in module.named_modules()
        if hasattr(child, "_orig_mod")
        or child._compiled_call_impl is not None
        or getattr(child, "_compiler_ctx", None) is not None  # Lightning took the wrapper off
    ]


def refuse_compiled(module: nn.Module) -> None:
    """Raise ``CaptureError`` if a part of ``module`` was compiled."""
    parts = compiled_parts(module)
    if parts:
        raise CaptureError(
            f"`{parts[0]}` was compiled with torch.compile. Hooks break its graphs, so that "
            "training with and without the valuation would differ in the last bits. Pass "
            "`allow_compiled=True` if you accept that, train without torch.compile, or value the "
            "data afterwards with extract_features on the uncompiled model."
        )


def _outermost(module: nn.Module, kind: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    if kind(module):
        yield module
        return
    for child in module.children():
        yield from _outermost(child, kind)


def _other_adapters(module: nn.Module) -> list[str]:
    """Kinds of peft's adapter layers in ``module`` that are not LoRA's."""
    from peft.tuners.lora.layer import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (m for m in module.modules() if isinstance(m, BaseTunerLayer))
    kinds = (type(m) for m in layers if not isinstance(m, LoraLayer))
    return sorted({f"{kind.__module__.split('.')[-2]}.{kind.__name__}" for kind in kinds})


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """peft's LoRA layers in ``model``, with their names."""
    from peft.tuners.lora.layer import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _has(layer: LoraLayer, part: str, adapter: str) -> bool:
    return adapter in getattr(layer, part, {})


def _refuse_unsupported(name: str, layer: Any, adapter: str) -> None:
    from peft.tuners.lora.layer import Linear

    embedding = adapter in getattr(layer, "lora_embedding_A", {})
    if not (embedding or _has(layer, "lora_A", adapter)):
        return  # this adapter does not touch this layer
    reason = None
    module = type(layer).__module__.rsplit(".", 1)[-1]
    variant = type(getattr(layer, "lora_variant", {}).get(adapter)).__name__
    if type(layer) is not Linear and module not in _QUANTISED:
        reason = f"a LoRA layer of kind {module}.{type(layer).__name__}"
    elif variant not in ("NoneType", "DoraLinearVariant"):
        reason = f"the LoRA variant {variant}"
    elif layer.merged:
        reason = "an adapter that is merged into its base weight"
    elif type(layer) is Linear and _is_quantised(layer.get_base_layer()):
        reason = f"a quantised base layer ({type(layer.get_base_layer()).__name__})"
    if reason:
        raise CaptureError(
            f"layer `{name}` has {reason}, whose per-sample gradients are not supported. "
            "Use LoRA, rsLoRA or DoRA on linear layers (of peft's own kinds, where quantised), or "
            "leave this layer out of `target_modules`."
        )


def _is_quantised(base: nn.Module) -> bool:
    weight = getattr(base, "weight", None)
    if weight is None:
        return True
    plain = type(weight) in (nn.Parameter, torch.Tensor) or isinstance(weight, DTensor)
    return not (plain and weight.is_floating_point())
