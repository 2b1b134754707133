"""Methods that read the text alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.encoder.distillation import Distillation, DistillationSettings
from influcoder_lightning.encoder.kernel_regression import KernelRegression
from influcoder_lightning.encoder.sentence_tower import joined, load_sentence_encoder
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.influence.methods.rds import hidden_states
from influcoder_lightning.influence.registry import rank
from influcoder_lightning.studies.fidelity.data import StudyData
from influcoder_lightning.studies.fidelity.gradient_methods import Codes
from influcoder_lightning.studies.fidelity.gradients import cosines, unit
from influcoder_lightning.studies.fidelity.method_rows import cpu_ms
from influcoder_lightning.studies.fidelity.rank_correlation import aggregated_rho, per_query_rho

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)


def baselines(data: StudyData, batch_size: int) -> None:
    """Random, word counts, and hidden states."""
    queries = [_bare(row) for row in data.texts["eval_query"]]
    samples = [_bare(row) for row in data.texts["eval_pool"]]
    shape = (len(queries), len(samples))
    random = np.random.default_rng(data.seed).random(shape)
    data.board.add("random", "baseline", random, ms=0.0, n_bytes=0, n_fit=0)
    for name, method in (("TF-IDF", "tfidf"), ("BM25", "bm25")):
        with cpu_ms(len(queries) + len(samples)) as cost:
            ranking = rank(None, method, queries=queries, data=samples)
        assert ranking.per_query is not None
        data.board.add(name, "baseline", ranking.per_query, ms=cost[0], n_bytes=0, n_fit=0)
    states = {}
    for part in ("eval_query", "eval_pool"):
        with cpu_ms(len(data.texts[part])) as cost:
            pad = data.tokenizer.pad_token_id
            states[part] = hidden_states(data.model, data.datasets[part], pad, batch_size)
    scores = cosines(states["eval_query"], states["eval_pool"])
    n_bytes = 4 * states["eval_pool"].shape[1]
    data.board.add("hidden states (RDS+)", "baseline", scores, ms=cost[0], n_bytes=n_bytes, n_fit=0)


def text_tower(
    data: StudyData, texts: Sequence[TextRow], codes: Codes
) -> tuple[np.ndarray, np.ndarray, float]:
    """Scores [M, N], confidence [N] and CPU ms per sample of the closed-form text tower."""
    head = TextHead.fit(texts, codes.fit, tokenizer=data.tokenizer)
    samples = data.texts["eval_pool"]
    with cpu_ms(len(samples)) as cost:
        expected = head.predict(samples)
    return codes.parts["eval_query"] @ expected.T, head.confidence(expected), cost[0]


def sentence_part(data: StudyData, codes: Codes, source: str | SentenceTransformer) -> None:
    """A frozen sentence encoder, plain, and with a linear layer to the codes in closed form."""
    encoder = load_sentence_encoder(source)
    untrained = Distillation(encoder, DistillationSettings())
    queries, samples = data.texts["eval_query"], data.texts["eval_pool"]
    with cpu_ms(len(queries) + len(samples)) as cost:
        scores = untrained.scores(queries, samples)
    width = encoder.get_embedding_dimension()
    data.board.add(
        "untrained sentence encoder", "baseline", scores, ms=cost[0], n_bytes=2 * width, n_fit=0
    )
    seen = unit(untrained.embed([joined(text) for text in data.fit_texts]))
    new = unit(untrained.embed([joined(text) for text in samples]))
    regression = KernelRegression.fit(seen @ seen.T, codes.fit)
    data.board.add(
        "sentence encoder, frozen, linear layer to codes",
        "text",
        codes.parts["eval_query"] @ regression.predict(new @ seen.T).T,
        ms=cost[0],
        n_bytes=2 * codes.fit.shape[1],
        n_fit=len(codes.fit),
    )


def published_objective(
    data: StudyData, n_pool: int, source: str | SentenceTransformer, settings: DistillationSettings
) -> list[dict[str, float]]:
    """The published distillation on the same samples; one line per epoch.

    The epoch is chosen by per-query rho on the select part, never on what is reported.
    """
    encoder = copy.deepcopy(load_sentence_encoder(source))
    distillation = Distillation(encoder, settings, data.seed)
    first = data.fit.n_query
    anchors = data.fit.block(slice(0, first)).numpy()
    blocks = [
        anchors @ data.fit.block(slice(start, min(start + 512, first + n_pool))).numpy().T
        for start in range(first, first + n_pool, 512)
    ]
    select = cosines(data.exact["select_query"], data.exact["select_pool"])
    queries, samples = data.texts["eval_query"], data.texts["eval_pool"]
    epochs: list[dict[str, float]] = []
    kept: list[np.ndarray] = []
    costs: list[float] = []

    def measure(epoch: int) -> None:
        chosen = distillation.scores(data.texts["select_query"], data.texts["select_pool"])
        with cpu_ms(len(queries) + len(samples)) as cost:
            kept.append(distillation.scores(queries, samples))
        costs.append(cost[0])
        epochs.append(
            {
                "epoch": epoch,
                "select_per_query": per_query_rho(chosen, select),
                "select_aggregated": aggregated_rho(chosen, select),
                "per_query": per_query_rho(kept[-1], data.board.exact),
                "aggregated": aggregated_rho(kept[-1], data.board.exact),
            }
        )
        log.info("distillation, epoch %d: %s", epoch, _short(epochs[-1]))

    texts = data.texts["fit_pool"][:n_pool]
    distillation.fit(data.texts["fit_query"], texts, np.concatenate(blocks, axis=1), measure)
    best = int(np.argmax([epoch["select_per_query"] for epoch in epochs]))
    n_bytes = 2 * encoder.get_embedding_dimension()
    if n_pool == len(data.texts["fit_pool"]):
        for name, i in (("epoch by the third split", best), ("last epoch", len(epochs) - 1)):
            data.board.add(
                f"published objective, {name}",
                "text",
                kept[i],
                ms=costs[i],
                n_bytes=n_bytes,
                n_fit=first + n_pool,
                epoch=i + 1,
            )
    return epochs


def _bare(row: TextRow) -> dict[str, str]:
    return {"prompt": row["prompt"], "response": row["response"]}


def _short(numbers: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in numbers.items() if key != "epoch")
