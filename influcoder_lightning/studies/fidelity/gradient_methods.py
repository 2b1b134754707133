"""Methods that compute each sample's gradient: what is lost when it is compressed?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from influcoder_lightning.encoder.gradient_tower import GradientTower, RandomProjection
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.projection import build_projector
from influcoder_lightning.studies.fidelity.data import StudyData
from influcoder_lightning.studies.fidelity.gradients import cosines, int8_rows, project, unit
from influcoder_lightning.studies.fidelity.method_rows import cpu_ms

TOWER_WIDTH = 512
FLOAT16_WIDTHS = (32, 128, 256, 512)
INT8_WIDTHS = (254,)  # and two bytes for the scale
QUERY_WEIGHT = 10.0  # queries are few, and their directions are what is asked about
_BLOCK = 512


def features(data: StudyData, sketch_dim: int) -> None:
    """Uncompressed gradients, random projections of them, and LESS."""
    board, size = data.board, data.size
    queries, samples = (torch.from_numpy(data.exact[f"eval_{x}"]) for x in ("query", "pool"))
    board.add(
        "exact gradient (identity)",
        "feature",
        cosines(queries.numpy(), samples.numpy()),
        ms=data.gradient_ms,
        n_bytes=4 * size,
        n_fit=0,
    )
    adam = data.moments.update(samples)
    factored = 64 * len(data.linears)
    cases = (
        (f"CountSketch {sketch_dim}", "countsketch", sketch_dim, samples),
        (f"LESS, Rademacher {sketch_dim}, plain", "rademacher", sketch_dim, samples),
        (f"LESS, Rademacher {sketch_dim}, Adam", "rademacher", sketch_dim, adam),
        ("LoGRA-style factored, rank 8", "factored", factored, samples),
    )
    for name, kind, dim, rows in cases:
        projector = build_projector(kind, data.linears, dim, data.seed)
        asked = project(projector, data.linears, queries)
        with cpu_ms(len(rows)) as cost:
            sketches = project(projector, data.linears, rows)
        scores = cosines(asked.numpy(), sketches.numpy())
        ms = data.gradient_ms + cost[0]
        board.add(name, "feature", scores, ms=ms, n_bytes=4 * projector.dim, n_fit=0)
        if kind == "countsketch":
            random = RandomProjection(projector.dim, TOWER_WIDTH, data.seed)
            a, b = (random.encode(x).numpy() for x in (asked, sketches))
            name = f"random code of the sketch, {TOWER_WIDTH} float16"
            n_bytes = 2 * TOWER_WIDTH
            board.add(name, "code", cosines(a, b), ms=ms, n_bytes=n_bytes, n_fit=0)


@dataclass
class Codes:
    """Unit gradients in the code space [n, d] float32, their lengths kept."""

    fit: np.ndarray
    parts: dict[str, np.ndarray]
    encode_ms: float


class TowerStream:
    """Fits a gradient tower to a growing stretch of the samples to learn from."""

    def __init__(self, data: StudyData) -> None:
        self._data = data
        self._tower = GradientTower(data.size, TOWER_WIDTH)
        self._done = {"query": 0, "pool": 0}

    def codes(self, n_query: int, n_pool: int) -> Codes:
        """Codes after the first queries and pool samples were seen."""
        fit, first = self._data.fit, self._data.fit.n_query
        for name, offset, end, weight in (
            ("query", 0, n_query, QUERY_WEIGHT),
            ("pool", first, n_pool, 1.0),
        ):
            for start in range(self._done[name], end, _BLOCK):
                stop = min(start + _BLOCK, end)
                self._tower.fit(fit.block(slice(offset + start, offset + stop)), weight)
            self._done[name] = max(end, self._done[name])
        tower = self._tower.leading(TOWER_WIDTH)
        seen = [*range(n_query), *range(first, first + n_pool)]
        blocks = [np.array(seen[i : i + _BLOCK]) for i in range(0, len(seen), _BLOCK)]
        encoded = [tower.project(fit.block(block)).numpy() for block in blocks]
        exact = {name: torch.from_numpy(rows) for name, rows in self._data.exact.items()}
        with cpu_ms(sum(map(len, exact.values()))) as cost:
            parts = {name: tower.project(rows).numpy() for name, rows in exact.items()}
        return Codes(np.concatenate(encoded), parts, cost[0])


def gradient_tower(data: StudyData, codes: Codes) -> None:
    """Learned codes of several widths, as numbers of two bytes and of one."""
    queries, samples = codes.parts["eval_query"], codes.parts["eval_pool"]
    ms, n_fit = data.gradient_ms + codes.encode_ms, len(codes.fit)
    for width in FLOAT16_WIDTHS:
        asked = queries[:, :width]
        kept = samples[:, :width].astype(np.float16).astype(np.float32)
        for name, scores in (
            ("length kept", asked @ kept.T),
            ("unit length", cosines(asked, unit(kept).astype(np.float16).astype(np.float32))),
        ):
            name = f"gradient tower, {width} float16, {name}"
            data.board.add(name, "code", scores, ms=ms, n_bytes=2 * width, n_fit=n_fit)
    for width in INT8_WIDTHS:
        scores = queries[:, :width] @ int8_rows(samples[:, :width]).T
        name = f"gradient tower, {width} int8, length kept"
        data.board.add(name, "code", scores, ms=ms, n_bytes=width + 2, n_fit=n_fit)


def co_trained_tower(data: StudyData) -> None:
    """The codes and the text tower of the run that warmed the adapter up."""
    if data.store is None:
        return
    store = InfluenceStore(data.store)
    config = store.attributes["projector"]
    projector = build_projector(config["name"], data.linears, config["dim"], config["seed"])
    tower = store.gradient_tower(int(store.windows["tower_version"].iloc[-1]))
    queries = project(projector, data.linears, torch.from_numpy(data.exact["eval_query"]))
    samples = torch.from_numpy(data.exact["eval_pool"])
    with cpu_ms(len(samples)) as cost:
        sketches = project(projector, data.linears, samples)
        codes = tower.encode(sketches).numpy()
    width, n_fit = tower.code_dim, store.n_rows
    scores = cosines(tower.encode(queries).numpy(), codes.astype(np.float16).astype(np.float32))
    data.board.add(
        f"gradient tower, co-trained on sketches of {projector.dim}, {width} float16",
        "code",
        scores,
        ms=data.gradient_ms + cost[0],
        n_bytes=2 * width,
        n_fit=n_fit,
    )
    text = store.text_tower()
    texts = data.texts["eval_pool"]
    with cpu_ms(len(texts)) as cost:
        expected, _ = text.expect(texts)
    scores = tower.project(queries).numpy() @ expected.T
    data.board.add(
        "text tower, co-trained", "text", scores, ms=cost[0], n_bytes=2 * width, n_fit=n_fit
    )
