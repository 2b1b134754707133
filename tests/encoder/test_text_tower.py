"""The text tower: objective, closed-form head, sentence encoder, and files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from conftest import FineTuning, loader, tokens, trainer

from influcoder_lightning import InfluenceCallback, InfluenceStore
from influcoder_lightning.encoder.objective import listwise_kl, pearson, ranking_loss
from influcoder_lightning.encoder.sentence_tower import SentenceTower, load_sentence_encoder
from influcoder_lightning.encoder.text_head import TextHead
from influcoder_lightning.errors import DataError, RankingError, StoreError


class Words:
    def batch_decode(self, ids, skip_special_tokens=True):
        return [" ".join(f"w{i}" for i in row) for row in ids]


def texts(n, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array(["red", "green", "blue", "1", "22", "333"])
    return [
        {"prompt": " ".join(rng.choice(words, 3)), "response": " ".join(rng.choice(words, 4))}
        for _ in range(n)
    ]


def test_pearson_and_kl_equal_scipy():
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(2, 4, 9))
    a, b = torch.tensor(scores), torch.tensor(targets)
    expected = scipy.stats.pearsonr(scores.ravel(), targets.ravel()).statistic
    assert float(pearson(a, b)) == pytest.approx(expected)
    p, q = (scipy.special.softmax(x / 0.05, axis=1) for x in (targets, scores))
    kl = scipy.special.rel_entr(p, q).sum(1).mean()
    assert float(listwise_kl(a, b, 0.05)) == pytest.approx(kl)
    loss = 0.3 * (1 - expected) + 0.7 * kl
    assert float(ranking_loss(a, b, alpha=0.3)) == pytest.approx(loss)


def test_the_head_learns_what_the_text_determines(tmp_path):
    rows = texts(300)
    codes = np.array(
        [
            [t["response"].count("red"), t["response"].count("1"), t["prompt"].count("blue"), 1.0]
            for t in rows
        ],
        dtype=np.float32,
    )
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    head = TextHead.fit(rows[:250], codes[:250])
    predicted = head.predict(rows[250:])
    cosines = (predicted * codes[250:]).sum(1) / np.linalg.norm(predicted, axis=1)
    assert cosines.mean() > 0.9
    head.save(tmp_path / "text_head")
    loaded = TextHead.load(tmp_path / "text_head")
    np.testing.assert_array_equal(loaded.predict(rows[:5]), head.predict(rows[:5]))


def test_a_damaged_or_foreign_head_is_refused(tmp_path):
    TextHead.fit(texts(20), np.eye(20, 4, dtype=np.float32)).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"kind": "other", "version": 1}))
    with pytest.raises(StoreError, match="text head"):
        TextHead.load(tmp_path)


def test_the_sentence_encoder_learns_the_block(sentence_encoder):
    torch.manual_seed(0)
    tower = SentenceTower(load_sentence_encoder(sentence_encoder), 8, learning_rate=1e-3)
    rows = texts(16)
    codes = torch.nn.functional.normalize(torch.randn(16, 8), dim=1)
    targets = codes[:4] @ codes.T
    losses = [tower.step(rows, codes, codes[:4], targets) for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_the_users_encoder_is_left_alone(sentence_encoder):
    before = [p.detach().clone() for p in sentence_encoder.parameters()]
    tower = SentenceTower(load_sentence_encoder(sentence_encoder), 8)
    codes = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    tower.step(texts(6), codes, codes, codes @ codes.T)
    for old, new in zip(before, sentence_encoder.parameters(), strict=True):
        assert torch.equal(old, new)


def fit(folder, pool, **options):
    settings = {
        "query_dataloader": loader(tokens(4, seed=2), 2),
        "tokenizer": Words(),
        "sketch_dim": 256,
        "code_dim": 32,
        "co_train_every_n_steps": 1,
    } | options
    callback = InfluenceCallback(str(folder / "store"), **settings)
    trainer(folder, [callback], max_epochs=2).fit(FineTuning(), loader(pool, 4))
    return InfluenceStore(folder / "store")


def as_rows(pool):
    rows = []
    for i, row in enumerate(pool):
        used = row["attention_mask"].bool()
        response = row["labels"] != -100
        prompt = row["input_ids"][used & ~response].tolist()
        answer = row["input_ids"][response].tolist()
        prompts, answers = Words().batch_decode([prompt, answer])
        rows.append({"id": i, "prompt": prompts, "response": answers})
    return rows


def test_co_trained_tower_scores_texts_and_opens_plainly(tmp_path, sentence_encoder):
    from sentence_transformers import SentenceTransformer

    pool = tokens(40, seed=1)
    store = fit(tmp_path, pool, text_encoder=sentence_encoder)
    ranking = store.rank("encoder", data=as_rows(pool))
    assert ranking.sample_ids.tolist() == list(range(40))
    last = store.records().epoch.to_numpy() == 1
    order = store.sample_ids[last]
    codes = store.codes()[last].astype("f4")[np.argsort(order)]
    predicted = store.text_tower().encode(as_rows(pool))
    own, others = (predicted * codes).sum(1), (predicted @ codes.T).mean(1)
    assert (own > others).mean() > 0.9  # texts land near their own gradient codes
    plain = SentenceTransformer(str(tmp_path / "store" / "encoder" / "text"))
    assert plain.encode(["w1 w2"]).shape == (1, 32)
    unseen = store.rank("encoder", data=as_rows(tokens(7, seed=9)))
    assert len(unseen.scores) == 7


def test_without_a_sentence_encoder_the_head_stands_alone(tmp_path):
    store = fit(tmp_path, tokens(40, seed=1))
    assert not (tmp_path / "store" / "encoder" / "text").exists()
    assert store.text_tower().encode(texts(3)).shape == (3, 32)
    assert store.query_texts() is not None


def test_without_text_there_is_no_text_tower_and_the_error_says_why(tmp_path):
    store = fit(tmp_path, tokens(12, seed=1), tokenizer=None)
    with pytest.raises(RankingError, match="tokenizer="):
        store.rank("encoder", data=texts(2))


def test_rows_without_text_are_refused(tmp_path):
    store = fit(tmp_path, tokens(12, seed=1))
    with pytest.raises(DataError, match="`prompt` and `response`"):
        store.text_tower().encode([{"prompt": "only"}])
