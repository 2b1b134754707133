"""bergson's scores: gradient cosine, TrackStar and EK-FAC, through the pipelines of its commands.

- ``cosine``: cosine of the unprojected gradients of the LoRA (``build`` of the queries, ``score``
  of the pool).
- ``trackstar``: gradients projected to 16 x 16 per weight (the command's default), second moments
  of pool and queries mixed as it does by default, the mix's inverse square root applied to both
  sides, unit norm. No optimizer's normalizer, as by default. ``trackstar_32``: projected to
  32 x 32. ``trackstar_adam``: with the normalizer, from an ``optimizer.pt`` (``state_dict()`` of
  the optimizer) beside the last adapter.
- ``ekfac``: K-FAC factors of the LoRA's linears, fitted on the pool with sampled labels, corrected
  eigenvalues, damping 0.1 times their mean.

The loss of a sample is its mean over its response. The tool pads on the right without an attention
mask, which a causal model does not notice. A score is higher where a sample is more helpful.
"""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bergson.build import build
from bergson.cli.trackstar import trackstar
from bergson.config.config import (
    DataConfig,
    HessianConfig,
    HessianPipelineConfig,
    IndexConfig,
    PreprocessConfig,
    QuerySetConfig,
    ScoreConfig,
    TrackstarConfig,
)
from bergson.data import load_scores
from bergson.hessians.pipeline import hessian_pipeline
from bergson.score.score import score_dataset
from datasets import Dataset
from lds_work import Sample, Scored, Work, main
from transformers import AutoConfig


def cosine(work: Work, folder: Path) -> Scored:
    """Cosine of exact gradients."""
    unit = PreprocessConfig(unit_normalize=True)
    build(settings(work, folder, "query", data=save(work.query, folder / "queries")), unit)
    score_dataset(
        settings(work, folder, "scores"), ScoreConfig(query_path=str(folder / "query")), unit
    )
    return collected(folder)


def trackstar_scores(work: Work, folder: Path, projection: int = 16, adam: bool = False) -> Scored:
    """The ``trackstar`` command with unit norm."""
    queries = save(work.query, folder / "queries")
    state = str(work.adapter / "optimizer.pt") if adam else ""
    trackstar(
        settings(work, folder, "run", projection_dim=projection, optimizer_state=state),
        TrackstarConfig(
            query=QuerySetConfig.from_data(queries),
            preprocess_cfg=PreprocessConfig(unit_normalize=True),
        ),
    )
    return collected(folder / "run")


def ekfac(work: Work, folder: Path) -> Scored:
    """The ``ekfac`` command with corrected eigenvalues."""
    queries = save(work.query, folder / "queries")
    hessian_pipeline(
        settings(work, folder, "run"),
        HessianConfig(method="kfac", ev_correction=True),
        ScoreConfig(),
        PreprocessConfig(),
        HessianPipelineConfig(query=QuerySetConfig.from_data(queries)),
    )
    return collected(folder / "run")


def settings(
    work: Work, folder: Path, name: str, data: DataConfig | None = None, **options: Any
) -> IndexConfig:
    """What all its steps share; ``data``: the pool, unless given."""
    model = folder / "model"
    if not model.exists():
        model.mkdir()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(work.adapter / file, model)
        config = json.loads((model / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(work.model)
        (model / "adapter_config.json").write_text(json.dumps(config))
    context = AutoConfig.from_pretrained(work.model).max_position_embeddings
    return IndexConfig(
        run_path=str(folder / name),
        model=str(model),
        tokenizer=str(work.model),
        data=data or save(work.pool, folder / "pool"),
        loss_reduction="mean",
        # It refuses batches of more tokens than the model's context.
        token_batch_size=min(work.batch_size * work.longest, context),
        max_batch_size=work.batch_size,
        **options,
    )


def save(samples: list[Sample], folder: Path) -> DataConfig:
    """A data set of tokens on disk, from which its commands read."""
    if not folder.exists():
        columns = {name: [sample[name] for sample in samples] for name in ("input_ids", "labels")}
        columns["length"] = [len(sample["input_ids"]) for sample in samples]
        Dataset.from_dict(columns).save_to_disk(folder)
    return DataConfig(dataset=str(folder))


def collected(run: Path) -> Scored:
    """The scores of a run, and what it left on disk."""
    scores = load_scores(run / "scores")
    if not scores.is_written():
        raise RuntimeError(f"{run / 'scores'} lacks scores")
    factors = [path for path in run.glob("*hessian*") if path.is_dir()]
    return Scored(
        torch.from_numpy(scores[:].copy()).T.contiguous(),
        kept=[run / "scores" / "scores.bin"],
        factors=factors,
    )


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(
        "bergson",
        {
            "cosine": cosine,
            "trackstar": trackstar_scores,
            "trackstar_32": partial(trackstar_scores, projection=32),
            "trackstar_adam": partial(trackstar_scores, adam=True),
            "ekfac": ekfac,
        },
    )
