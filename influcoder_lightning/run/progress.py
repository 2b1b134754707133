"""What a person sees of a training while a recipe runs: its steps, its metrics, and no noise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from influcoder_lightning.callback.influence_callback import InfluenceCallback
from influcoder_lightning.printable import printable
from influcoder_lightning.run.stages import Stage
from influcoder_lightning.threads import paced

log = logging.getLogger(__name__)

# Remarks about setups that the recipes choose on purpose.
_KNOWN = (
    ".*does not have many workers.*",
    ".*module.*in eval mode at the start of training.*",
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*is deprecated.*",
    ".*max_epochs.*was not set.*",
    ".*GPU available but not used.*",
    ".*Experiment logs directory.*exists and is not empty.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    ".*You are using a CUDA device.*",
    ".*is_gradient_checkpointing.*is deprecated.*",
)
_NOISY = (
    "lightning.pytorch",
    "lightning.fabric",
    "lightning_fabric",
    "transformers",
    "sentence_transformers",
    "huggingface_hub",
    "httpx",
)
_REFRESH = 0.25  # seconds between looks at the metrics
_METRICS = {
    "train_loss": "loss {:.3f}",
    "influcoder/drift": "drift {:.2f}",
    "influcoder/encoder_loss": "encoder loss {:.3f}",
    "influcoder/step_time_share": "valuing {:.0%} of time",
}


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's own messages off, the warnings that matter as one line each."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    bars = _transformers_bars(False)
    with warnings.catch_warnings():
        for message in _KNOWN:
            warnings.filterwarnings("ignore", message=message)
        warnings.showwarning = _one_line
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            if bars:
                _transformers_bars(True)


def _transformers_bars(on: bool) -> bool:
    from transformers.utils import logging as transformers_logging

    was_on = bool(transformers_logging.is_progress_bar_enabled())
    (
        transformers_logging.enable_progress_bar
        if on
        else transformers_logging.disable_progress_bar
    )()
    return was_on


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if not issubclass(category, DeprecationWarning):
        log.warning("warning: %s", printable(" ".join(str(message).split())))


class ShowSteps(Callback):
    """Shows how many optimizer steps are done, and the newest metrics.

    Put it before an `InfluenceCallback`: then it also says when that begins to write the store.

    Args:
        show: the stage.
        before: steps of earlier trainings in the same stage.
        what: said before the metrics.
    """

    def __init__(self, show: Stage, before: int = 0, what: str = "") -> None:
        self._show, self._before, self._what = show, before, what
        self._shown = 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Move the bar; metrics are read a few times a second, since that waits for a GPU."""
        note = None
        if self._show.watched and monotonic() - self._shown > _REFRESH:
            self._shown = monotonic()
            note = "  ".join(filter(None, [self._what, *newest_metrics(trainer.callback_metrics)]))
        self._show(self._before + trainer.global_step, note)

    def on_train_end(self, trainer: Any, *_: object) -> None:
        """Say what the callbacks do now."""
        if any(isinstance(callback, InfluenceCallback) for callback in trainer.callbacks):
            self._show(self._before + trainer.global_step, "last query gradients, writing store")


def newest_metrics(metrics: Mapping[str, Tensor | float]) -> list[str]:
    """What `LoraFineTuning` and `InfluenceCallback` have logged last, in few words.

    Example:
        >>> newest_metrics({"train_loss": 1.5, "influcoder/step_time_share": 0.08})
        ['loss 1.500', 'valuing 8% of time']
    """
    return [_METRICS[name].format(float(metrics[name])) for name in _METRICS if name in metrics]


class Watched:
    """Batches of a loader, which show how many have been read.

    Args:
        loader: with a length.
        show: gets the number of batches read.
    """

    def __init__(self, loader: DataLoader, show: Callable[[int], object]) -> None:
        self._loader, self._show = loader, show

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[object]:
        for number, batch in enumerate(paced(self._loader, "extracting"), 1):
            yield batch
            self._show(number)
