"""Model, tokenizer and tokenised rows of a run, checked against each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from torch.utils.data import DataLoader, Dataset, Subset

from influcoder_lightning.data.census import Census, census
from influcoder_lightning.data.encoders import template_called
from influcoder_lightning.data.formats import Row
from influcoder_lightning.data.overlap import check_overlap
from influcoder_lightning.data.row_files import Source
from influcoder_lightning.data.rows import RowSource, row_ids
from influcoder_lightning.data.tokenization import (
    TokenizedDataset,
    TruncationReport,
    collate_samples,
    tokenize_rows,
)
from influcoder_lightning.data.turns import Turn, as_turns, whole_rows
from influcoder_lightning.errors import ConfigError, DataError, RankingError
from influcoder_lightning.finetune.models import load_tokenizer, n_embeddings
from influcoder_lightning.finetune.training import steps_of_epochs
from influcoder_lightning.ids import SampleId, first_few
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.processes import expected
from influcoder_lightning.run.base_model import base_model
from influcoder_lightning.run.run_folder import require
from influcoder_lightning.run.settings import Settings, resolved
from influcoder_lightning.run.split import Split
from influcoder_lightning.run.stages import stage
from influcoder_lightning.run.trainer_keys import training_keys
from influcoder_lightning.valuation.fingerprint import frozen_weights, tokenizer_identity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class Materials:
    """What a run works on, loaded when first asked for.

    Args:
        cfg: the configuration.
        recipe: named in errors about missing keys.
    """

    def __init__(self, cfg: Settings | DictConfig, recipe: str) -> None:
        self.cfg, self.recipe = resolved(cfg), recipe

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """With a pad token."""
        name = require(self.cfg, "model.name", self.recipe)
        with stage("loading the tokenizer"):
            return load_tokenizer(name, revision=self.cfg.model.revision)

    @cached_property
    def model_content(self) -> dict[str, str]:
        """Hashes of what the model's folder holds, whose name says nothing of it."""
        require(self.cfg, "model.name", self.recipe)
        with stage("looking at the model"):
            return self._content(base_model(self.cfg))

    def look_at(self, base: Any) -> None:
        """Take `model_content` from a base model that is loaded already."""
        self.__dict__.setdefault("model_content", self._content(base))

    def _content(self, base: Any) -> dict[str, str]:
        weights = frozen_weights(base.requires_grad_(False))
        return {"base_model": weights, "tokenizer": tokenizer_identity(self.tokenizer)}

    @cached_property
    def pool(self) -> Split:
        """Rows to choose from."""
        log.info("pool: %s", self.census.words())
        return self._split("pool", self._rows["pool"])

    @cached_property
    def query(self) -> Split | None:
        """Rows that say what matters, where there are any."""
        return self._optional("query")

    @cached_property
    def evaluation(self) -> Split | None:
        """Rows to measure on, where there are any."""
        return self._optional("eval")

    def first(self, n: int) -> Split:
        """The first rows to choose from, without tokenising the others."""
        return self._split("pool", self._rows["pool"][:n])

    @property
    def n_queries(self) -> int:
        """Number of rows that say what matters."""
        return len(self._rows.get("query", []))

    def require_evaluation(self) -> Split:
        """Rows to measure on.

        Raises:
            ConfigError: data.eval is not given.
        """
        require(self.cfg, "data.eval", self.recipe)
        assert self.evaluation is not None
        return self.evaluation

    def split(self, name: str, path: str, first_id: int = 0, prefix: str = "") -> Split:
        """Further rows, tokenised alike; ids of rows without one as ``first_id`` and on."""
        rows = self._read(name, path)
        if first_id or prefix:
            for index, row in enumerate(rows):
                if row.get("id") is None:
                    row["id"] = f"{prefix}{index}" if prefix else first_id + index
        return self._split(name, rows)

    def loader(self, dataset: Dataset) -> DataLoader[Any]:
        """Batches in a fixed order."""
        return DataLoader(
            dataset,
            batch_size=self.cfg.train.batch_size,
            collate_fn=collate_samples(self.tokenizer.pad_token_id),
        )

    def training_options(self, alone: bool = False) -> dict[str, Any]:
        """Keyword arguments of `finetune.train`, but for steps and seed; ``alone``: on one device,
        whatever the run has.
        """
        train = self.cfg.train
        names = ("batch_size", "lr", "weight_decay", "warmup", "accumulate", "precision")
        pad = {"pad_token_id": self.tokenizer.pad_token_id}
        return {name: train[name] for name in names} | pad | training_keys(self.cfg, alone)

    def valuation_steps(self) -> int:
        """Optimizer steps of the valuation run."""
        train = self.cfg.train
        if train.steps is not None:
            return int(train.steps)
        sizes = (train.batch_size, train.accumulate, expected())
        return steps_of_epochs(len(self.pool), train.epochs, *sizes)

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        """All rows, read together, so that what overlaps is refused before anything runs."""
        data = self.cfg.data
        rows = {"pool": self._read("pool", require(self.cfg, "data.pool", self.recipe))}
        for name in ("query", "eval"):
            if data[name] is not None:
                rows[name] = self._read(name, data[name])
        check_overlap(rows["pool"], rows.get("query", []), rows.get("eval"))
        return rows

    @cached_property
    def census(self) -> Census:
        """What is odd about the pool, counted."""
        with stage("counting copies"):
            return census(self._rows["pool"])

    def _read(self, name: str, place: Source) -> list[Row]:
        """The rows of a source, and a line on what they were taken for."""
        rows, shape = row_source(self.cfg, name, place).load()
        unused = f"; not used: {', '.join(shape.unused)}" if shape.unused else ""
        log.info("%s: %d rows, %s%.200s", name, len(rows), shape.says(), unused)
        if context := shape.ignored_context():
            log.warning(
                "%s: the columns %s look as if they belonged to the prompt, and are not used. Put "
                "them there, or say what they are: data.columns.",
                name,
                ", ".join(context),
            )
        return rows

    def _refuse_unknown_tokens(self, name: str, largest: int) -> None:
        """An id beyond the model's embeddings is an IndexError within it, or worse on a GPU."""
        known = n_embeddings(self.cfg.model.name, self.cfg.model.revision)
        if known is not None and largest >= known:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise DataError(
                f"{name}: the tokenizer of {self.cfg.model.name} gives the token {token!r:.40} the "
                f"id {largest:,}, and the model knows {known:,} ids: tokens were added to the "
                "tokenizer alone. Call model.resize_token_embeddings(len(tokenizer)) and save "
                "both, or take the tokenizer that belongs to the model."
            )

    def _optional(self, name: str) -> Split | None:
        return self._split(name, self._rows[name]) if name in self._rows else None

    def _split(self, name: str, rows: Sequence[Row]) -> Split:
        cfg = self.cfg
        template = template_called(cfg.model.template, self.tokenizer)
        ids: list[SampleId] = list(row_ids(rows))
        by_turn = name == "pool" and cfg.data.unit == "turn"
        if by_turn and cfg.data.train_on == "all":
            raise ConfigError(
                "data.unit=turn values each turn by its own loss: leave data.train_on=assistant."
            )
        samples = as_turns(rows, ids) if by_turn else list(whole_rows(rows, ids))
        ids = [sample.id for sample in samples]
        with stage(f"tokenising {name}") as done:
            dataset = tokenize_rows(
                [sample.row for sample in samples],
                self.tokenizer,
                template,
                cfg.train.max_length,
                ids,
                train_on=cfg.data.train_on,
                too_long=cfg.data.too_long,
            )
            done.result = _counts(dataset.report)
        self._refuse_unknown_tokens(name, dataset.largest_id())
        if len(samples) > len(rows):
            log.info("%s: %s", name, _cost_of_turns(samples, dataset, len(rows)))
        keep: Sequence[int] = range(len(samples))
        if dataset.report.n_without_response:
            keep = [i for i in keep if dataset.n_trained[i]]
            left_out = sorted(set(range(len(samples))) - set(keep))
            log.warning(
                "%s: %d rows without a response token are left out: %s",
                name,
                len(left_out),
                first_few([ids[i] for i in left_out]),
            )
        kept = [samples[i] for i in keep]
        return Split(
            [sample.row for sample in kept],
            [sample.id for sample in kept],
            dataset if len(keep) == len(samples) else Subset(dataset, keep),
            [sample.place for sample in kept],
            [dataset.n_trained[i] for i in keep],
            dataset.report,
            [sample.conversation for sample in kept] if by_turn else None,
            [rows[sample.place] for sample in kept] if by_turn else None,
        )


def row_source(cfg: Settings, name: str, place: Source) -> RowSource:
    """A source of rows as the settings describe it: those of the pool hold for the pool alone."""
    data = cfg.data
    if name != "pool":
        return RowSource(place, revision=data.revision)
    return RowSource(place, data.format, data.columns or {}, data.split, data.revision)


def _cost_of_turns(samples: Sequence[Turn], dataset: TokenizedDataset, n_rows: int) -> str:
    """What it costs that every turn brings what was said before it."""
    lengths = [dataset.length(i) for i in range(len(samples))]
    last = {sample.place: length for sample, length in zip(samples, lengths, strict=True)}
    total, once = sum(lengths), sum(last.values())
    return (
        f"{n_rows:,} rows as {len(samples):,} turns, of {total:,} tokens instead of {once:,} "
        f"({total / max(1, once):.1f} times the work)"
    )


def _counts(report: TruncationReport) -> str:
    counts = f"{report.n_rows:,} rows, {report.n_response_tokens:,} response tokens"
    if report.n_prompts_truncated or report.n_responses_truncated or report.n_dropped:
        counts += f"; {report.words()}"
    if report.n_spelling_special:
        counts += f"; {report.n_spelling_special:,} spell special tokens, kept as text"
    return counts


def fit_to_pool(ranking: Ranking, pool: Split, where: str) -> Ranking:
    """The ranking, if it is one of this pool.

    Raises:
        RankingError: it ranks ids that the pool does not have.
    """
    known = {str(name) for name in pool.ids}
    ranked = {str(name) for name in ranking.sample_ids.tolist()}
    if unknown := sorted(ranked - known):
        raise RankingError(
            f"{where} ranks {len(unknown)} ids that the pool does not have: {first_few(unknown)}. "
            "Give the pool that was valued: data.pool=<file>."
        )
    if missing := sorted(known - ranked):
        log.warning(
            "%s: %d of %d pool samples have no score; training did not reach them: %s",
            where,
            len(missing),
            len(known),
            first_few(missing),
        )
    return ranking
