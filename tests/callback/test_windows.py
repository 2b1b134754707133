"""Windows, queries, tower versions and counts, as the store shows them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import FineTuning, loader, oracle_gradient, relative_error, tokens, trainer

from influcoder_lightning import InfluenceCallback, InfluenceStore
from influcoder_lightning.encoder import cotraining

POOL, QUERIES = tokens(16, seed=31), tokens(3, seed=32)


def cosine(a, b):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None]


def fit(folder, module=None, pool=POOL, trainer_options=None, **options):
    settings = {
        "query_dataloader": loader(QUERIES, 2),
        "projector": "identity",
        "keep_sketches": True,
        "code_dim": 64,
    } | options
    callback = InfluenceCallback(str(folder / "store"), **settings)
    module = module or FineTuning()
    run = trainer(folder, [callback], **({"max_epochs": 2} | (trainer_options or {})))
    run.fit(module, loader(pool, 4))
    return InfluenceStore(folder / "store"), module


def test_a_window_is_an_epoch_by_default(tmp_path):
    store, _ = fit(tmp_path)
    assert store.windows.epoch.tolist() == [0, 1]
    assert store.windows.start_step.tolist() == [0, 4]
    assert store.windows.end_step.tolist() == [4, 8]
    assert store.windows.n_rows.tolist() == [16, 16]
    assert (store.records().window == store.records().epoch).all()
    assert len(store) == 32


def test_windows_of_n_steps(tmp_path):
    store, _ = fit(tmp_path, refresh_queries_every_n_steps=3)
    assert store.windows.start_step.tolist() == [0, 3, 6]
    records = store.records()
    assert (records.window == records.step // 3).all()


def test_query_features_equal_autograd_at_start_and_end(tmp_path):
    module = FineTuning()
    before = copy.deepcopy(module.model)
    store, module = fit(tmp_path, module)
    assert store.query_ids.tolist() == [0, 1, 2]
    for take, model in (
        (store.query_sketches(window=0), before),
        (store.query_sketches(end=True), module.model),
    ):
        for sketch, row in zip(take, QUERIES, strict=True):
            assert relative_error(sketch, oracle_gradient(model, row)) <= 1e-5


def test_drift_is_the_cosine_between_the_ends_of_a_window(tmp_path):
    store, _ = fit(tmp_path, refresh_queries_every_n_steps=3)
    ends = [store.query_sketches(window=w) for w in (1, 2)] + [store.query_sketches(end=True)]
    for window, end in enumerate(ends):
        start = store.query_sketches(window=window)
        expected = np.diag(cosine(start, end)).mean()
        assert store.windows.drift[window] == pytest.approx(expected, rel=1e-4)


def test_a_long_drifting_window_is_warned_about(tmp_path):
    with pytest.warns(UserWarning, match="Shorten the windows"):
        fit(tmp_path, drift_warn=0.999999)


def test_codes_preserve_cosines_within_each_window(tmp_path):
    store, _ = fit(tmp_path, refresh_queries_every_n_steps=3)
    records = store.records()
    for window in store.windows.window:
        rows = (records.window == window).to_numpy()
        exact = cosine(store.sketches()[rows], store.query_sketches(window=window))
        coded = cosine(store.codes()[rows], store.query_codes(window=window))
        assert np.abs(exact - coded).max() < 5e-3


def test_codes_are_normalised_halves_and_norms_are_exact(tmp_path):
    store, _ = fit(tmp_path)
    assert store.codes().dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(store.codes().astype("f4"), axis=1), 1, atol=2e-3)
    np.testing.assert_allclose(
        store.records().grad_norm, np.linalg.norm(store.sketches(), axis=1), rtol=1e-4
    )


def test_lengths_are_what_the_code_space_holds(tmp_path):
    """Codes times lengths are the projections, and come closer to the exact cosines."""
    store, _ = fit(tmp_path, code_dim=6)
    records = store.records()
    assert records.code_length.between(0, 1.001).all()
    exact = cosine(store.sketches(), store.query_sketches(window=0))
    by_code = cosine(store.codes(), store.query_codes(window=0))
    lengths = store.query_records(window=0).code_length.to_numpy()
    by_projection = by_code * records.code_length.to_numpy()[:, None] * lengths
    basis = store.gradient_tower(0).versions[-1].numpy()
    unit, asked = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (store.sketches(), store.query_sketches(window=0))
    )
    np.testing.assert_allclose(by_projection, (unit @ basis.T) @ (asked @ basis.T).T, atol=2e-3)
    assert np.abs(by_projection - exact).mean() < np.abs(by_code - exact).mean()


def test_one_frozen_tower_version_per_window(tmp_path, monkeypatch):
    monkeypatch.setattr(cotraining, "FIT_ROWS", 8)
    monkeypatch.setattr(cotraining, "RELEARN_GAIN", -1.0)  # a new version wherever one may start
    monkeypatch.setattr("influcoder_lightning.valuation.valuation.BUFFER_BYTES", 1)
    store, _ = fit(tmp_path, refresh_queries_every_n_steps=3)
    records = store.records()
    assert records.tower_version.nunique() > 1
    versions = records.groupby("window").tower_version.unique()
    assert all(len(v) == 1 for v in versions)
    assert [v[0] for v in versions] == store.windows.tower_version.tolist()
    for window in store.windows.window:
        tower = store.gradient_tower(store.windows.tower_version[window])
        rows = (records.window == window).to_numpy()
        encoded = tower.encode(torch.tensor(store.sketches()[rows])).half().numpy()
        np.testing.assert_allclose(encoded, store.codes()[rows], atol=1e-3)
        queries = tower.encode(torch.tensor(store.query_sketches(window=window))).half().numpy()
        np.testing.assert_allclose(queries, store.query_codes(window=window), atol=1e-3)


def test_without_co_training_the_code_is_a_fixed_projection(tmp_path):
    store, _ = fit(tmp_path, co_train=False)
    tower = store.gradient_tower(0)
    encoded = tower.encode(torch.tensor(store.sketches())).half().numpy()
    np.testing.assert_allclose(encoded, store.codes(), atol=1e-3)
    other, _ = fit(tmp_path / "again", co_train=False)
    np.testing.assert_array_equal(store.codes(), other.codes())


def test_runs_are_reproducible(tmp_path):
    first, _ = fit(tmp_path / "1", projector="countsketch", sketch_dim=128)
    second, _ = fit(tmp_path / "2", projector="countsketch", sketch_dim=128)
    np.testing.assert_array_equal(first.sketches(), second.sketches())
    np.testing.assert_array_equal(first.codes(), second.codes())


def with_ids(rows, ids):
    from torch.utils.data import DataLoader

    from influcoder_lightning import collate_with_sample_ids, with_sample_ids

    return DataLoader(
        with_sample_ids(rows, ids=ids), batch_size=2, collate_fn=collate_with_sample_ids()
    )


@pytest.mark.parametrize("window", [0, 1, 2])
def test_add_queries(tmp_path, window):
    module = FineTuning()
    store, module = fit(tmp_path, module, refresh_queries_every_n_steps=3)
    weights = [p.detach().clone() for p in module.model.parameters()]
    assert store.add_queries(module.model, with_ids(QUERIES, [10, 11, 12])) == [10, 11, 12]
    assert store.query_ids.tolist() == [0, 1, 2, 10, 11, 12]
    for sketches in (store.query_sketches(window=window), store.query_sketches(end=True)):
        for old, new in zip(sketches[:3], sketches[3:], strict=True):
            assert relative_error(new, old) <= 1e-5
    codes = store.query_codes(window=window).astype("f4")
    np.testing.assert_allclose(codes[:3], codes[3:], atol=2e-3)
    for before, after in zip(weights, module.model.parameters(), strict=True):
        assert torch.equal(before, after)
    np.testing.assert_allclose(
        store.rank("cosine", queries=[10, 11, 12]).scores,
        store.rank("cosine", queries=[0, 1, 2]).scores,
        atol=2e-3,
    )


def test_ranking_equals_the_contract_formula_on_exact_gradients(tmp_path):
    store, _ = fit(tmp_path, refresh_queries_every_n_steps=3)
    records, sketches = store.records(), store.sketches()
    per_sample, tracin = {}, {}
    for i, record in enumerate(records.itertuples()):
        queries = store.query_sketches(window=record.window)
        value = cosine(sketches[i : i + 1], queries).mean()
        dot = float((sketches[i].astype("f8") @ queries.T.astype("f8")).mean())
        per_sample.setdefault(record.sample_id, []).append(value)
        tracin[record.sample_id] = tracin.get(record.sample_id, 0) + record.learning_rate * dot
    ranking = store.rank("cosine")
    expected = [np.mean(per_sample[i]) for i in ranking.sample_ids]
    np.testing.assert_allclose(ranking.scores, expected, atol=5e-3)
    ranking = store.rank("tracin")
    expected = np.array([tracin[i] for i in ranking.sample_ids])
    np.testing.assert_allclose(ranking.scores, expected, atol=0.02 * np.abs(expected).max())
    self_ranking = store.rank("self")
    squared = (sketches.astype("f8") ** 2).sum(1)
    for sample_id, score in zip(self_ranking.sample_ids, self_ranking.scores, strict=True):
        rows = records.sample_id == sample_id
        assert score == pytest.approx(squared[rows].mean(), rel=1e-3)


def test_learning_rate_column_follows_the_scheduler(tmp_path):
    class Scheduled(FineTuning):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.5**s)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    store, _ = fit(tmp_path, Scheduled(), trainer_options={"max_epochs": 1})
    rates = store.records().groupby("step").learning_rate.first()
    np.testing.assert_allclose(rates, 1e-2 * 0.5 ** np.arange(4), rtol=1e-5)


def test_no_queries_one_window_per_epoch_and_self_ranks(tmp_path):
    store, _ = fit(tmp_path, query_dataloader=None)
    assert len(store.windows) == 2
    assert store.windows.drift.isna().all()
    assert len(store.rank("self").top_k(3)) == 3


def test_logged_values_and_closing_message(tmp_path, caplog):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path, name="", version="")
    with caplog.at_level("INFO"):
        fit(tmp_path, trainer_options={"logger": logger, "log_every_n_steps": 1})
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"influcoder/drift", "influcoder/rows_written", "influcoder/step_time_share"} <= set(
        header
    )
    assert "32 rows written for 32 samples seen" in caplog.text


def test_fast_dev_run_writes_nothing(tmp_path):
    callback = InfluenceCallback(str(tmp_path / "store"), query_dataloader=loader(QUERIES))
    trainer(tmp_path, [callback], fast_dev_run=True).fit(FineTuning(), loader(POOL))
    assert not (tmp_path / "store").exists()


def test_an_exception_keeps_what_was_captured_and_says_so(tmp_path):
    class Failing(FineTuning):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("out of luck")
            return super().training_step(batch, batch_idx)

    module = Failing()
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, module)
    with pytest.warns(UserWarning, match="incomplete: RuntimeError: out of luck"):
        store = InfluenceStore(tmp_path / "store")
    assert len(store) == 8
    assert not any(m._forward_hooks for m in module.modules())


def test_a_training_step_without_loss_is_counted(tmp_path):
    class Skipping(FineTuning):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    with pytest.warns(UserWarning, match="4 kept out: training_step returned no loss"):
        store, _ = fit(tmp_path, Skipping(), trainer_options={"max_epochs": 1})
    assert len(store) == 12


def test_non_finite_gradients_are_kept_out_and_counted(tmp_path):
    class Exploding(FineTuning):
        def training_step(self, batch, batch_idx):
            logits = self.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            labels = batch["labels"][:, 1:]
            token = torch.nn.functional.cross_entropy(
                logits[:, :-1].transpose(1, 2), labels, reduction="none"
            )
            scale = torch.ones(len(labels), 1)
            if batch_idx == 1:
                scale[2] = float("inf")
            return (token * scale).sum() / (labels != -100).sum()

        def on_before_optimizer_step(self, optimizer):
            for p in self.parameters():
                if p.grad is not None:
                    p.grad.nan_to_num_(0.0, 0.0, 0.0)

    with pytest.warns(UserWarning, match="1 kept out: non-finite gradient"):
        store, _ = fit(
            tmp_path, Exploding(), trainer_options={"max_epochs": 1}, query_dataloader=None
        )
    assert sorted(set(range(16)) - set(store.sample_ids.tolist())) == [6]
    assert store.attributes["counts"]["kept_out"] == {"non-finite gradient": 1}


def test_validation_and_sanity_check_are_not_captured(tmp_path):
    class Validating(FineTuning):
        def validation_step(self, batch, batch_idx):
            self.log("val", self.model(batch["input_ids"], labels=batch["labels"]).loss)

        def val_dataloader(self):
            return loader(QUERIES)

    store, _ = fit(tmp_path, Validating())
    assert len(store) == 32


def test_a_store_that_cannot_be_closed_does_not_hide_the_users_error(tmp_path, monkeypatch):
    class Failing(FineTuning):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("out of luck")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("influcoder_lightning.valuation.recorder.Recorder.abort", full)
    with (
        pytest.warns(UserWarning, match=r"could not be closed \(no space left\)"),
        pytest.raises(RuntimeError, match="out of luck"),
    ):
        fit(tmp_path, Failing())


def test_missing_rows_are_an_error_that_lists_their_ids(tmp_path, monkeypatch):
    from influcoder_lightning.errors import CaptureError
    from influcoder_lightning.valuation.recorder import Recorder

    add = Recorder.add

    def forgetful(self, rows, *rest):
        add(self, rows.select(torch.tensor([i != 5 for i in rows.ids])), *rest)

    monkeypatch.setattr(Recorder, "add", forgetful)
    with pytest.raises(CaptureError, match=r"32 samples were seen but 30 rows written.*ids: 5"):
        fit(tmp_path)
    with pytest.warns(UserWarning, match="is incomplete: CaptureError: 32 samples were seen"):
        InfluenceStore(tmp_path / "store")


def test_an_epoch_cut_short_by_a_hook(tmp_path):
    class Impatient(FineTuning):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 and self.current_epoch == 0 else None

    store, _ = fit(tmp_path, Impatient())
    assert store.windows.n_rows.tolist() == [8, 16]
    every_third, _ = fit(tmp_path / "third", Impatient(), every_n_train_steps=3)
    assert every_third.records().step.unique().tolist() == [0, 3]
    assert store.windows.epoch.tolist() == [0, 1]


def test_many_drifting_windows_are_warned_about_once_and_counted(tmp_path):
    with pytest.warns(UserWarning, match="query gradients turned") as caught:
        store, _ = fit(tmp_path, drift_warn=0.999999, refresh_queries_every_n_steps=1)
    messages = [str(warning.message) for warning in caught]
    assert sum("Shorten the windows" in message for message in messages) == 1
    n = int((store.windows.drift < 0.999999).sum())
    assert n > 1
    (summary,) = [m for m in messages if "windows (drift below" in m]
    assert f"in {n} of {len(store.windows)} windows" in summary
