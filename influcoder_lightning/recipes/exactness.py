"""verify of a model: captured rows beside one-sample autograd, on the user's own model and rows."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.data import DataLoader

from influcoder_lightning.callback.influence_callback import InfluenceCallback
from influcoder_lightning.capture.features import evaluating
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.capture.self_check import HALF, WIDE, tolerance_of
from influcoder_lightning.data.tokenization import collate_samples
from influcoder_lightning.errors import CaptureError, InfluCoderError
from influcoder_lightning.files import durable_path
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.projection import build_projector
from influcoder_lightning.run.base_model import lora_model
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings, plain

log = logging.getLogger(__name__)


@dataclass
class Line:
    """One way to train, and how far its rows are from one-sample autograd.

    Attributes:
        error: largest relative error of a gradient; None where the way was refused.
        cosine: smallest cosine.
        refused: why there are no rows.
        half: whether some of the arithmetic is in 16 bit.
    """

    precision: Any
    rows: str
    checkpointing: bool
    error: float | None = None
    cosine: float | None = None
    refused: str | None = None
    half: bool = False

    @property
    def exact(self) -> bool:
        """Whether the rows are as close as arithmetic of this width lets them be."""
        assert self.error is not None
        assert self.cosine is not None
        return self.cosine >= HALF.cosine if self.half else self.error <= (WIDE.gradient or 0)

    def words(self) -> str:
        """The line of the table."""
        way = f"{self.precision:<11} {self.rows:<7} {'yes' if self.checkpointing else 'no':<14}"
        if self.error is None:
            return f"{way} refused: {self.refused}"
        return f"{way} {self.error:<15.1e} {self.cosine:.6f}"


def prove(cfg: Settings, folder: Path) -> None:
    """Print relative errors of captured rows for each way to train; writes ``verify.json``.

    Raises:
        CaptureError: rows differ from one-sample autograd in some way to train, or none of them
            can be captured.
    """
    materials = Materials(cfg, "verify")
    pool, pad = materials.first(cfg.n), materials.tokenizer.pad_token_id
    samples = [pool.dataset[i] for i in range(len(pool))]
    log.info(
        "the gradients that one training step of %d rows captures, beside those of each row alone "
        "by plain autograd; the worst row of each way to train:",
        len(samples),
    )
    log.info("precision   rows    checkpointing  relative error  cosine")
    lines = []
    for line in _ways(plain(cfg.precisions)):
        _measure(cfg, line, samples, pad)
        log.info("%s", line.words())
        lines.append(line)
    with durable_path(folder / "verify.json") as part:
        content = {"model": cfg.model.name, "n": len(samples), "ways": [asdict(x) for x in lines]}
        part.write_text(json.dumps(content, indent=1) + "\n")
    save_config(cfg, folder)
    measured = [line for line in lines if line.error is not None]
    wrong = [line for line in measured if not line.exact]
    if wrong:
        raise CaptureError(
            f"rows differ from one-sample autograd in {len(wrong)} of {len(lines)} ways to train "
            f"({wrong[0].words()}): do not rely on their scores."
        )
    if not measured:
        raise CaptureError(f"no way to train can be captured: {lines[0].refused}.")
    log.info(
        "%d of %d ways to train are exact (a relative error of at most %.0e; in 16 bit a cosine of "
        "at least %.2f)%s.",
        len(measured),
        len(lines),
        WIDE.gradient,
        HALF.cosine,
        "" if len(measured) == len(lines) else "; the others are refused in a run, too",
    )


def _ways(precisions: list[str]) -> Iterator[Line]:
    for precision in precisions:
        for rows in ("padded", "packed"):
            for checkpointing in (False, True):
                yield Line(precision, rows, checkpointing)


def _measure(cfg: Settings, line: Line, samples: list[Mapping[str, Any]], pad: int) -> None:
    """Capture one training step, then compute the same gradients one by one."""
    model = lora_model(cfg)
    line.half = "16" in str(line.precision) or tolerance_of(model) is HALF
    _warm(model, cfg.seed)
    if line.checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer releases have a second name
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
        model.train()  # only then is it active; nothing is dropped all the same
        for part in model.modules():
            part.training = part.training and not isinstance(part, torch.nn.Dropout)
    batch = collate_samples(pad)(samples) if line.rows == "padded" else packed(samples)
    with tempfile.TemporaryDirectory() as folder:
        callback = InfluenceCallback(
            folder + "/store", sketch_dim=cfg.influence.sketch_dim, code_dim=8, co_train=False,
            keep_sketches=True, seed=cfg.seed, sanity_samples=0,
        )  # fmt: skip
        trainer = Trainer(
            default_root_dir=folder, max_steps=1, precision=line.precision, callbacks=[callback],
            logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, devices=1,
        )  # fmt: skip
        try:
            batches: Any = [batch]
            trainer.fit(_OneStep(model), DataLoader(batches, batch_size=None))
            rows = torch.from_numpy(InfluenceStore(folder + "/store").sketches())
        except InfluCoderError as error:
            line.refused = str(error).split(". ")[0]
            return
        context = trainer.precision_plugin.forward_context
        with evaluating(model), context():
            alone = torch.stack([_sketch(cfg, model, sample) for sample in samples])
    gaps = (rows - alone).norm(dim=1) / alone.norm(dim=1)
    line.error, line.cosine = float(gaps.max()), float(cosine_similarity(rows, alone).min())


class _OneStep(LightningModule):
    """One step of training at a learning rate of 0."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        names = ("input_ids", "attention_mask", "position_ids", "labels")
        inputs = {name: batch[name] for name in names if name in batch}
        loss: Tensor = self.model(**inputs, use_cache=False).loss
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.0)


def packed(samples: list[Mapping[str, Any]]) -> dict[str, Any]:
    """All samples in one row, kept apart by positions that restart."""
    lengths = [len(sample["input_ids"]) for sample in samples]
    labels = [sample["labels"].clone() for sample in samples]
    for own in labels:
        own[0] = -100  # nothing before it predicts it
    numbers = torch.arange(1, len(samples) + 1)
    return {
        "input_ids": torch.cat([sample["input_ids"] for sample in samples])[None],
        "labels": torch.cat(labels)[None],
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "segment_ids": numbers.repeat_interleave(torch.tensor(lengths))[None],
        "sample_id": [[sample["sample_id"] for sample in samples]],
    }


def _warm(model: Any, seed: int) -> None:
    """Give B values, without which every gradient of A is zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(0.01 * torch.randn(weight.shape, generator=generator))


def _sketch(cfg: Settings, model: Any, sample: Mapping[str, Any]) -> Tensor:
    """The gradient of one sample by plain autograd, projected as the rows are: [D] float32."""
    linears = find_lora_linears(model)
    projector = build_projector("countsketch", linears, cfg.influence.sketch_dim, cfg.seed)
    device = next(model.parameters()).device
    ids, labels = move_data_to_device([sample["input_ids"], sample["labels"]], device)
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    loss = cross_entropy(logits.float(), labels[1:])
    weights = [linear.weight for linear in linears]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    sketch = torch.zeros((1, projector.dim), device=device, dtype=torch.float32)
    for linear, gradient in zip(linears, found, strict=True):
        if gradient is not None:
            projector.add(sketch, linear, gradient.float().reshape(1, *linear.shape))
    return sketch[0].cpu()
