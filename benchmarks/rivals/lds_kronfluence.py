"""kronfluence's scores: EK-FAC influence over the LoRA's linears, and plain dot products.

``ekfac`` fits the factors on the pool, with labels sampled from the model at the response's
positions, and damps with 0.1 times the mean eigenvalue. ``identity`` is the dot product of the
gradients. Padding is masked in attention, loss and factors; the loss of a sample is its mean over
its response. A score is the query's gradient times the (inverse curvature times the) sample's
gradient, so that higher means more helpful.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from lds_work import IGNORED, Sample, Scored, Work, main, padded
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM

Batch = dict[str, Tensor]


class Samples(Dataset):
    """A map-style dataset, as the tool wants one."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class ResponseLoss(Task):
    """Loss on the response, of which the tool takes the gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and ".lora_" in name
        ]

    def compute_train_loss(self, batch: Batch, model: nn.Module, sample: bool = False) -> Tensor:
        """Sum over the batch of each sample's mean loss.

        The curvature of a mean over n tokens is 1/n times that of the sum. The gradient with
        sampled labels, whose square estimates it, is therefore divided by the root of n.
        """
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        logits, labels = output.logits[:, :-1], batch["labels"][:, 1:]
        counted = labels != IGNORED
        if sample:
            with torch.no_grad():
                drawn = torch.multinomial(logits.flatten(0, 1).softmax(-1), 1).view_as(labels)
            labels = drawn.masked_fill(~counted, IGNORED)
        losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
        count = counted.sum(1).clamp_min(1)
        return (losses / (count.sqrt() if sample else count)).sum()

    def compute_measurement(self, batch: Batch, model: nn.Module) -> Tensor:
        """The query's own loss."""
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        """The LoRA's linears."""
        return self.modules

    def get_attention_mask(self, batch: Batch) -> Tensor:
        """Keeps padding out of the factors."""
        return batch["attention_mask"]


def score(work: Work, folder: Path, strategy: str) -> Scored:
    """Fit the factors of a strategy on the pool, then score it for every query."""
    base: Any = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    model: nn.Module = PeftModel.from_pretrained(base, str(work.adapter)).eval()
    task = ResponseLoss(model)
    analyzer = Analyzer(
        analysis_name="lds",
        model=prepare_model(model, task),
        task=task,
        cpu=True,
        disable_tqdm=True,
        output_dir=str(folder),
    )
    collate = partial(padded, pad_token_id=work.pad_token_id)
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collate))
    pool = Samples(work.pool)
    analyzer.fit_all_factors(
        factors_name="factors",
        dataset=pool,
        per_device_batch_size=work.batch_size,
        factor_args=FactorArguments(strategy=strategy),
    )
    analyzer.compute_pairwise_scores(
        scores_name="scores",
        factors_name="factors",
        query_dataset=Samples(work.query),
        train_dataset=pool,
        # Every batch of queries takes a pass over the pool; one batch, one pass.
        per_device_query_batch_size=len(work.query),
        per_device_train_batch_size=work.batch_size,
        score_args=ScoreArguments(damping_factor=None),
    )
    scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    return Scored(
        scores,
        kept=list(folder.rglob("pairwise_scores*.safetensors")),
        factors=list((folder / "lds" / "factors_factors").glob("*.safetensors")),
    )


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main("kronfluence", {name: partial(score, strategy=name) for name in ("ekfac", "identity")})
