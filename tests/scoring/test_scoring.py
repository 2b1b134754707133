"""Streamed scores are those of `rank("encoder", data=rows)`: oracle, kills, processes, readers."""

from __future__ import annotations

import gzip
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import slow_scoring
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from warm import FORKS

from influcoder_lightning import load_rows, row_ids, write_jsonl
from influcoder_lightning.data.overlap import PoolOverlap
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.encoder.text_tower import TextTower
from influcoder_lightning.errors import ConfigError, DataError, RankingError
from influcoder_lightning.influence.methods.encoder import score_texts
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.text_scores import rank_text
from influcoder_lightning.scoring.predict import Batch, PartRows, TextScorer
from influcoder_lightning.scoring.result import ScoredPool
from influcoder_lightning.scoring.run import Scoring
from influcoder_lightning.scoring.sealed_parts import ScoreParts
from influcoder_lightning.scoring.survey import Survey, pick_rows

WORDS = ["sun", "oak", "boat", "kel", "mim", "tor", "red", "two", "nine", "add", "sort", "say"]
HERE = Path(__file__).parent


def texts(n: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {"prompt": f"Say {i}", "response": " ".join(rng.choice(WORDS, rng.integers(1, 9)))}
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    """The folder of a text tower that has seen a few texts."""
    folder = tmp_path_factory.mktemp("tower")
    codes = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    TextHead.fit(texts(40, seed=5), codes).save(folder / "text_head")
    return folder


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    codes = np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


def oracle(tower: Path, queries: np.ndarray, rows: list[dict]) -> tuple[Ranking, dict]:
    """What `rank("encoder", data=rows)` does with them, all in memory; and each confidence."""
    loaded, ids = TextTower.load(tower), np.array(row_ids(rows))
    sure = {}

    def block(some: slice) -> np.ndarray:
        scores, confidence = score_texts(loaded, queries, rows[some])
        sure.update(zip(ids[some].tolist(), confidence.tolist(), strict=True))
        return scores

    return rank_text(ids, np.arange(len(queries)), block, block_rows=7), sure


def scoring(path, tower, queries, folder, n_rows, part_rows=10, batch_size=4) -> Scoring:
    parts = ScoreParts(folder, n_rows, part_rows)
    parts.folder.mkdir(exist_ok=True)
    return Scoring(str(path), tower, queries, parts, batch_size)


def assert_same(scored: ScoredPool, expected: Ranking) -> None:
    assert scored.ranking.sample_ids.tolist() == expected.sample_ids.tolist()
    scale = np.abs(expected.scores).max()
    np.testing.assert_allclose(scored.ranking.scores, expected.scores, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize(("part_rows", "batch_size"), [(1, 1), (10, 4), (7, 100), (1000, 256)])
def test_scores_are_those_of_the_method(tmp_path, tower, queries, part_rows, batch_size):
    rows = texts(53)
    write_jsonl(rows, tmp_path / "pool.jsonl")
    expected, sure = oracle(tower, queries, rows)
    work = scoring(
        tmp_path / "pool.jsonl", tower, queries, tmp_path / "s", 53, part_rows, batch_size
    )
    work.run(1)
    scored = ScoredPool(work.source, work.parts.read(), 3)
    assert_same(scored, expected)
    assert scored.ranking.confidence == pytest.approx(list(sure.values()), abs=1e-6)


def test_rows_of_one_id_are_one_sample(tmp_path, tower, queries):
    rows = [row | {"id": f"r{i % 20}"} for i, row in enumerate(texts(33))]
    write_jsonl(rows, tmp_path / "pool.jsonl")
    expected, _ = oracle(tower, queries, rows)
    work = scoring(tmp_path / "pool.jsonl", tower, queries, tmp_path / "s", 33)
    work.run(1)
    scored = ScoredPool(work.source, work.parts.read(), 3)
    assert_same(scored, expected)
    best = scored.ranking.top_k(2)
    picked = scored.pick(best)
    assert [s.row for s in picked] == [r for name in best for r in rows if r["id"] == name]
    assert [s.rank for s in picked] == sorted(s.rank for s in picked)


def test_several_processes_share_the_work(tmp_path, tower, queries):
    rows = [row | {"id": 1000 - i} for i, row in enumerate(texts(45))]
    for name, some in (("a", rows[:20]), ("b", rows[20:])):
        write_jsonl(some, tmp_path / f"pool-{name}.jsonl")
    expected, _ = oracle(tower, queries, rows)
    work = scoring(tmp_path / "pool-*.jsonl", tower, queries, tmp_path / "s", 45)
    work.run(2)
    scored = ScoredPool(work.source, work.parts.read(), 3)
    assert_same(scored, expected)
    assert scored.pick([1000])[0].row == rows[0]


def test_a_process_that_fails_says_why_and_keeps_what_is_sealed(tmp_path, tower, queries):
    write_jsonl(texts(30), tmp_path / "pool.jsonl")
    with (tmp_path / "pool.jsonl").open("a") as file:
        file.write('{"prompt": 1}\n')
    work = scoring(tmp_path / "pool.jsonl", tower, queries, tmp_path / "s", 40)
    with pytest.raises(ConfigError, match=r"pool.jsonl:31.*'response' is missing.*resume=true"):
        work.run(2)


def test_killed_in_the_middle_it_goes_on(tmp_path, tower, queries):
    """kill -9, twice; the sealed parts are not scored again, and the scores are the same."""
    rows = texts(600)
    write_jsonl(rows, tmp_path / "pool.jsonl")
    np.save(tmp_path / "queries.npy", queries)
    work = scoring(tmp_path / "pool.jsonl", tower, queries, tmp_path / "s", 600, 20)
    before: dict[str, int] = {}
    for _ in range(2):
        process = FORKS.Process(target=slow_scoring.main, args=(tmp_path, tower))
        process.start()
        enough = work.parts.n_sealed_rows() + 60
        while work.parts.n_sealed_rows() < enough:
            assert process.is_alive()
            time.sleep(0.01)
        process.kill()
        process.join()
        now = {p.name: p.stat().st_mtime_ns for p in work.parts.folder.glob("part-*")}
        assert before.items() <= now.items()
        before = now
    assert 100 < work.parts.n_sealed_rows() < 600
    work.run(1)
    now = {p.name: p.stat().st_mtime_ns for p in work.parts.folder.glob("part-*")}
    assert before.items() <= now.items()
    assert_same(ScoredPool(work.source, work.parts.read(), 3), oracle(tower, queries, rows)[0])


def test_the_signal_to_end_is_heeded(tmp_path, tower, queries):
    write_jsonl(texts(600), tmp_path / "pool.jsonl")
    np.save(tmp_path / "queries.npy", queries)
    work = scoring(tmp_path / "pool.jsonl", tower, queries, tmp_path / "s", 600, 20)
    process = FORKS.Process(target=slow_scoring.main, args=(tmp_path, tower))
    process.start()
    while not work.parts.n_sealed_rows():
        time.sleep(0.01)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert work.parts.n_sealed_rows() < 600


def test_what_scores_depend_on(tmp_path, tower, queries):
    write_jsonl(texts(12), tmp_path / "pool.jsonl")
    work = scoring(tmp_path / "pool.jsonl", tower, queries, tmp_path / "s", 12)
    own = work.settings("fingerprint")
    work.parts.begin(own, resume=False)
    with pytest.raises(ConfigError, match=r"already holds scores.*resume=true"):
        work.parts.begin(own, resume=False)
    unfinished = work.parts.folder / ".part-00000.jsonl.123.part"
    unfinished.write_text("of a process that was killed")
    work.parts.begin(own, resume=True)
    assert not unfinished.exists()
    others = {
        "pool": (work, work.settings("other")),
        "queries": (work, scoring("", tower, queries * 2, tmp_path / "s", 12).settings("x")),
        "text_tower": (work, scoring("", tmp_path, queries, tmp_path / "s", 12).settings("x")),
        "n_rows": (scoring("", tower, queries, tmp_path / "s", 13), own),
        "part_rows": (scoring("", tower, queries, tmp_path / "s", 12, 11), own),
    }
    for name, (other, depends) in others.items():
        with pytest.raises(ConfigError, match=f"{name}.* changed since"):
            other.parts.begin(depends, resume=True)


LINE = '{"id": 1, "score": 0.5, "confidence": 0.5}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        LINE,
        f"{LINE}\n{LINE}\n{LINE}\n",
        f"{LINE}\n{{",
        f"{LINE}\n[1, 0.5, 0.5]\n",
        f'{LINE}\n{{"id": 1.5, "score": 0.5, "confidence": 0.5}}\n',
        f'{LINE}\n{{"id": true, "score": 0.5, "confidence": 0.5}}\n',
        f'{LINE}\n{{"id": 9223372036854775808, "score": 0.5, "confidence": 0.5}}\n',
        f'{LINE}\n{{"id": 1, "score": "0.5", "confidence": 0.5}}\n',
        f'{LINE}\n{{"id": 1, "confidence": 0.5}}\n',
        "[" * 100_000 + "\n[\n",
    ],
)
def test_a_damaged_part_is_named(tmp_path, content):
    (tmp_path / "part-00000.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=r"part-00000.jsonl is damaged.*delete it"):
        ScoreParts(tmp_path, 2, 10).read()


def test_scores_that_are_no_numbers_are_refused(tower, queries):
    module = TextScorer(TextTower.load(tower), queries * np.float32("nan"))
    with pytest.raises(RankingError, match="2 samples get a score that is not finite"):
        module.predict_step(Batch(0, texts(2)), 0)


IDS = st.none() | st.integers(-5, 5) | st.text("ab-0", max_size=3)


@settings(deadline=None, max_examples=60)
@given(ids=st.lists(IDS, min_size=1, max_size=12), part_rows=st.integers(1, 5))
def test_ids_are_those_of_row_ids(tmp_path_factory, ids, part_rows):
    parts = ScoreParts(tmp_path_factory.mktemp("parts"), len(ids), part_rows)
    lines = [(name, float(i), 0.5) for i, name in enumerate(ids)]
    for part in parts.missing():
        parts.seal(part, lines[part * part_rows : (part + 1) * part_rows])
    try:
        expected = row_ids([{"id": name} for name in ids])
    except DataError as error:
        with pytest.raises(DataError, match=str(error)[:20]):
            parts.read()
        return
    read = parts.read()
    assert read.ids.tolist() == expected
    assert read.scores.tolist() == list(range(len(ids)))


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    part_rows=st.integers(1, 7),
    batch_size=st.integers(1, 5),
    processes=st.integers(1, 3),
    done=st.sets(st.integers(0, 6)),
    packed=st.booleans(),
)
def test_every_row_of_a_missing_part_is_read_once(
    tmp_path_factory, sizes, part_rows, batch_size, processes, done, packed
):
    folder = tmp_path_factory.mktemp("pool")
    rows = [{"prompt": str(i), "response": "r", "n": i} for i in range(sum(sizes))]
    begin = 0
    for number, size in enumerate(sizes):
        text = "".join(json.dumps(row) + "\n" for row in rows[begin : begin + size]).encode()
        name, content = ("gz", gzip.compress(text)) if packed else ("jsonl", text)
        (folder / f"{number}.{name}").write_bytes(content)
        begin += size
    own = [part for part in range(-(-len(rows) // part_rows)) if part not in done]
    seen = []
    for process in range(processes):
        for part, some in PartRows(f"{folder}/*", own[process::processes], part_rows, batch_size):
            assert 0 < len(some) <= batch_size
            assert {row["n"] // part_rows for row in some} == {part}
            seen += [row["n"] for row in some]
    assert sorted(seen) == [n for n in range(len(rows)) if n // part_rows not in done]


def test_loader_workers_share_the_parts(tmp_path):
    write_jsonl(texts(23), tmp_path / "pool.jsonl")
    rows = PartRows(str(tmp_path / "pool.jsonl"), range(5), 5, 2)
    batches = list(DataLoader(rows, batch_size=None, num_workers=2))
    assert sorted(row["prompt"] for batch in batches for row in batch.rows) == sorted(
        row["prompt"] for row in texts(23)
    )


def test_survey_and_second_look(tmp_path):
    rows = [row | ({"task": "a"} if i % 2 else {}) for i, row in enumerate(texts(20))]
    write_jsonl(rows, tmp_path / "pool.jsonl")
    overlap = PoolOverlap([rows[3]], [])
    survey = Survey.of(str(tmp_path / "pool.jsonl"), overlap)
    assert survey.n_rows == 20
    assert survey.tasks == ["no task", "a"] * 10
    with pytest.warns(UserWarning, match=r"1 pool row\(s\) are also query rows"):
        overlap.verdict()
    assert pick_rows(tmp_path / "pool.jsonl", {7, 2}) == {2: rows[2], 7: rows[7]}
    with pytest.raises(DataError, match="has no row 99 any more"):
        pick_rows(tmp_path / "pool.jsonl", {99})


def test_a_pool_that_changed_under_the_run(tmp_path, tower, queries):
    rows = [row | {"id": i} for i, row in enumerate(texts(12))]
    write_jsonl(rows, tmp_path / "pool.jsonl")
    work = scoring(tmp_path / "pool.jsonl", tower, queries, tmp_path / "s", 12)
    work.run(1)
    scored = ScoredPool(work.source, work.parts.read(), 3)
    write_jsonl(rows[::-1], tmp_path / "pool.jsonl")
    with pytest.raises(DataError, match="was changed: row 0 was 0, now 11"):
        scored.pick([0])


def test_a_datasets_folder_is_read_like_its_rows(tmp_path, tower, queries):
    datasets = pytest.importorskip("datasets")
    rows = texts(15)
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "pool")
    assert load_rows(tmp_path / "pool") == rows
    work = scoring(tmp_path / "pool", tower, queries, tmp_path / "s", 15)
    work.run(1)
    assert_same(ScoredPool(work.source, work.parts.read(), 3), oracle(tower, queries, rows)[0])
