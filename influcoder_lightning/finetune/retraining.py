"""One base model, trained again and again on other samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from torch.utils.data import Dataset

from influcoder_lightning.finetune.models import add_lora, load_adapter
from influcoder_lightning.finetune.trainers import is_shared_out
from influcoder_lightning.finetune.training import train

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Retraining:
    """A base model and how it is fine-tuned; every run starts from it with a LoRA of its own.

    The model of a run holds until the next one, which takes the base model out of it. Where that
    has changed (a LoRA that starts from parts of its weights, weights in shares), it is loaded
    again.

    Args:
        load: gives the base model, a causal LM; LoRAs are put into it in place, one at a time.
        lora: settings of each LoRA, as for `add_lora`.
        options: keyword arguments of `train`, but for those of `run`.
        adapter: folder of a LoRA that each run begins with, in place of a fresh one.
    """

    def __init__(
        self,
        load: Callable[[], PreTrainedModel],
        lora: Mapping[str, Any],
        options: Mapping[str, Any],
        adapter: str | Path | None = None,
    ) -> None:
        self._load, self._lora, self._options, self._adapter = load, lora, options, adapter
        self._base: PreTrainedModel | None = None
        self._last: PeftModel | None = None

    def base(self) -> PreTrainedModel:
        """The base model without a LoRA; it ends the model of the last run."""
        if self._last is not None:
            last, self._last = self._last, None
            changed = is_shared_out(last) or changes_base(last)
            self._base = None if changed else last.unload()
        if self._base is None:
            self._base = self._load()
        return self._base

    def untrained(self) -> PreTrainedModel | PeftModel:
        """What every run begins from: the base model, or the one with the adapter."""
        return self.base() if self._adapter is None else self.load(self._adapter)

    def run(
        self, dataset: Dataset, steps: int, seed: int, callbacks: Sequence[Callback] = ()
    ) -> PeftModel:
        """The base model with a fresh LoRA, trained on a dataset.

        Args:
            dataset: tokenised samples.
            steps: optimizer steps.
            seed: of initial weights, order and dropout.
            callbacks: Lightning callbacks.

        Raises:
            DataError: the dataset is empty.
            ConfigError: settings that PEFT or the Trainer refuse.
        """
        if self._adapter is None:
            self._last = add_lora(self.base(), self._lora, seed)
        else:
            self.load(self._adapter)
        assert self._last is not None
        options = {**self._options, "steps": steps, "seed": seed, "callbacks": callbacks}
        return train(self._last, dataset, **options)

    def load(self, adapter: str | Path) -> PeftModel:
        """The base model with the LoRA of an earlier run.

        Raises:
            ConfigError: it cannot be loaded.
        """
        self._last = load_adapter(self.base(), adapter)
        return self._last


def changes_base(model: PeftModel) -> bool:
    """Whether taking the LoRA out does not give the base model back.

    Some ways to begin a LoRA (PiSSA, OLoRA) take a part out of the weights.
    """
    begun = [getattr(config, "init_lora_weights", True) for config in model.peft_config.values()]
    return any(isinstance(way, str) and way not in ("gaussian", "orthogonal") for way in begun)
