"""Two processes give the rows of one, each sample once, in one store."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes
from conftest import FineTuning, loader, relative_error, tiny_peft, tokens, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler
from warm import FORKS

from influcoder_lightning import InfluenceCallback, InfluenceStore
from influcoder_lightning.capture.padding import n_before_padding

HERE = Path(__file__).parent
# A seed that another test has set would shuffle Lightning's sampler in another way.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"}


def launch(folder, kind, **options):
    """Both processes of a run, there already as torchrun starts them, to their end; its store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [
        FORKS.Process(
            target=two_processes.one_of_two,
            args=(folder, kind, options, place | {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}),
        )
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0, 0], (folder / "said").read_text()
    return InfluenceStore(folder / "store")


def script(commands, name, *arguments, folder):
    """As a user does it: Lightning starts the second process."""
    done = subprocess.run(
        [commands / "python", HERE / name, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def launch_script(commands, folder, kind, **options):
    script(commands, "two_processes.py", folder, kind, json.dumps(options), folder=folder)
    return InfluenceStore(folder / "store")


def one_process(folder, n_samples=16, **options):
    """The same samples, as two micro-batches per step: what rank 0 sees, then what rank 1 sees."""
    rows = tokens(n_samples, seed=51)
    # Lightning shuffles training data where it puts in its own sampler.
    pairs = [list(DistributedSampler(range(n_samples), 2, rank, seed=0)) for rank in (0, 1)]
    order = [i for k in range(0, len(pairs[0]), 4) for pair in pairs for i in pair[k : k + 4]]
    plain = loader(rows, 4)
    batches = DataLoader(
        plain.dataset, batch_sampler=_chunks(order, 4), collate_fn=plain.collate_fn
    )
    torch.manual_seed(0)
    settings = {"sketch_dim": 256, "code_dim": 8, "keep_sketches": True} | options
    queries = loader(tokens(3, seed=52), 2)
    callback = InfluenceCallback(str(folder / "one"), query_dataloader=queries, **settings)
    run = trainer(folder, [callback], accumulate_grad_batches=2)
    run.fit(FineTuning(tiny_peft()), batches)
    return InfluenceStore(folder / "one")


def _chunks(order, size):
    return [order[i : i + size] for i in range(0, len(order), size)]


def by_key(store, feature="gradient"):
    records = store.records()
    keys = zip(records.sample_id.tolist(), records.step.tolist(), strict=True)
    return dict(zip(keys, store.sketches(feature=feature), strict=True))


@pytest.mark.parametrize("kind", ["ddp", "spawn", "fsdp2"])
def test_two_processes_capture_what_one_does(commands, tmp_path, kind):
    updates = kind != "fsdp2"
    reference = one_process(tmp_path, co_train=False, optimizer_features=updates)
    started = launch if kind == "fsdp2" else partial(launch_script, commands)
    store = started(tmp_path, kind, co_train=False, optimizer_features=updates)
    assert store.attributes["complete"]
    assert store.attributes["parts"] == [8, 8]
    assert store.attributes["cost"]["processes"] == 2
    left, right = by_key(store), by_key(reference)
    assert left.keys() == right.keys()
    assert max(relative_error(left[key], right[key]) for key in right) <= 1e-5
    if updates:  # the sign of a gradient that is all but zero is noise, see capture/test_updates
        left, right = by_key(store, "update"), by_key(reference, "update")
        assert max(relative_error(left[key], right[key]) for key in right) <= 2e-2
    assert relative_error(store.query_sketches(end=True), reference.query_sketches(end=True)) < 1e-5
    assert store.query_ids.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(
        store.windows.to_numpy()[:, :4], reference.windows.to_numpy()[:, :4]
    )
    scores = [
        dict(zip((r := s.rank("cosine")).sample_ids, r.scores, strict=True))
        for s in (store, reference)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


def test_each_process_reads_all_queries_of_the_modules_hook(tmp_path):
    store, alone = launch(tmp_path, "ddp", queries="hook"), one_process(tmp_path)
    assert store.query_ids.tolist() == alone.query_ids.tolist()
    ours, expected = store.query_sketches(), alone.query_sketches()
    assert ours.shape == expected.shape
    assert relative_error(ours, expected) < 1e-3


def test_repeats_of_the_sampler_are_kept_out_and_counted(tmp_path):
    store = launch(tmp_path, "ddp", n_samples=13, co_train=False)
    assert sorted(store.sample_ids.tolist()) == list(range(13))
    kept_out = store.attributes["counts"]["kept_out"]
    assert store.attributes["counts"]["seen"] == 14
    assert kept_out == {"repeated by the distributed sampler to even out the processes": 1}


def test_co_training_gives_one_tower_for_all(tmp_path):
    """The first process's tower encodes everybody's rows."""
    store = launch(tmp_path, "ddp", epochs=2)
    tower = store.gradient_tower(0)
    assert (store.records().tower_version == 0).all()
    assert len(store) == 32
    codes = tower.encode(torch.tensor(store.sketches())).half().numpy()
    np.testing.assert_allclose(codes, store.codes(), atol=1e-3)


def test_where_one_gives_up_all_do_and_the_training_goes_on(tmp_path):
    with pytest.warns(UserWarning, match="is incomplete: .*(No space left|process 1 has given up)"):
        store = launch(tmp_path, "ddp", epochs=2, co_train=False, on_error="warn", trouble=True)
    assert (tmp_path / "done").read_text() == "4 steps"
    assert set(store.records().step) == {0, 1}


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_resumed_run_of_two_processes(tmp_path, kind):
    reference = launch(tmp_path / "whole", kind, epochs=2, co_train=False, save=True)
    launch(tmp_path / "cut", kind, epochs=1, co_train=False, save=True)
    ckpt = str(next((tmp_path / "cut").glob("*.ckpt")))
    store = launch(tmp_path / "cut", kind, epochs=2, co_train=False, save=True, ckpt=ckpt)
    assert store.attributes["complete"]
    assert store.sample_ids.tolist() == reference.sample_ids.tolist()
    np.testing.assert_array_equal(store.sketches(), reference.sketches())
    np.testing.assert_array_equal(store.codes(), reference.codes())


def test_a_multirun_does_not_mix_folders(commands, tmp_path):
    sweep = ["-m", "rate=0.01,0.02", f"hydra.sweep.dir={tmp_path}/sweep"]
    script(commands, "hydra_app.py", *sweep, folder=tmp_path)
    for job in ("0", "1"):
        store = InfluenceStore(tmp_path / "sweep" / job / "store")
        assert sorted(store.sample_ids.tolist()) == list(range(8))
    stores = [path.parent.parent.name for path in tmp_path.rglob("influence.h5")]
    assert sorted(stores) == ["0", "1"]


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 40), processes=st.integers(1, 6), epoch=st.integers(0, 3))
def test_padding_is_told_from_duplicates(n, processes, epoch):
    """Every sample comes before the padding exactly once, whatever torch's sampler does."""
    seen = Counter()
    for rank in range(processes):
        sampler = DistributedSampler(range(n), processes, rank, seed=7)
        sampler.set_epoch(epoch)
        batches = DataLoader(range(n), sampler=sampler)
        n_real = n_before_padding(batches)
        seen.update(list(sampler)[:n_real])
    assert seen == Counter(range(n))
