"""Which models influence is defined for: causal language models with a label per token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from influcoder_lightning.errors import CaptureError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Heads of transformers' models, by a part of the class's name.
_OTHER_HEADS = {
    "ForMaskedLM": "a masked language model, which predicts tokens in place, not the next one",
    "ForTokenClassification": "a token classifier",
    "ForSequenceClassification": "a sequence classifier",
    "ForMultipleChoice": "a multiple-choice classifier",
    "ForQuestionAnswering": "a model that marks answers in a text",
    "ForNextSentencePrediction": "a classifier of pairs of sentences",
    "ForImageClassification": "an image classifier",
    "ForAudioClassification": "an audio classifier",
    "ForPreTraining": "an encoder with a pre-training head",
    "ForCTC": "a speech recogniser",
}


def refuse_unsuitable(model: nn.Module) -> None:
    """Raise ``CaptureError`` unless ``model`` may be a causal language model.

    Known are the heads of ``transformers``, and classes that inherit from them. Any other module
    passes: what it computes is compared by the self-check.
    """
    for part in _transformers_models(model):
        reason = _other_task(part)
        if reason is not None:
            raise CaptureError(
                f"{type(part).__name__} is {reason}: influence is defined here for causal language "
                "models with a label per token (`...ForCausalLM`, or a vision-language model with "
                "a causal head). Fine-tune such a model, or value the data with one that stands in."
            )


def _transformers_models(module: nn.Module) -> Iterator[PreTrainedModel]:
    """The outermost models of transformers in ``module``."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        yield module
        return
    for child in module.children():
        yield from _transformers_models(child)


def _other_task(model: PreTrainedModel) -> str | None:
    """What ``model`` is, if it is no causal language model."""
    text = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False) or text.is_encoder_decoder:
        return "an encoder-decoder, whose labels belong to another sequence than its inputs"
    names = [
        kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("transformers.")
    ]
    return next(
        (what for part, what in _OTHER_HEADS.items() if any(part in name for name in names)), None
    )
