"""Work is done with the number of threads that its own first pieces were fastest with."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import threads


@pytest.fixture(autouse=True)
def _as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    threads.begin_run(before)


def decide(seconds: dict[int, float], most: int, sizes=(1.0,)) -> threads.ThreadChoice:
    """A choice on a machine where a piece takes so long with each number of threads."""
    now = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "perf_counter", lambda: now[0])
        patch.setattr(torch, "set_num_threads", lambda n: now.append(n))
        choice = threads.ThreadChoice("work", most)
        for number in range(40):
            choice.begin()
            size = sizes[number % len(sizes)]
            now[0] += seconds[now[-1]] * size
            choice.end(size)
    return choice


@given(st.integers(2, 64), st.data())
def test_the_choice_is_never_slower_than_one_thread(most, data):
    tried = [most, 1] if most <= 8 else [most, most // 4, 1]
    seconds = {n: data.draw(st.floats(0.001, 1)) for n in tried}
    sizes = data.draw(st.lists(st.floats(1, 500), min_size=1, max_size=5))
    chosen = decide(seconds, most, sizes).chosen
    assert seconds[chosen] <= seconds[1] * (1 + 1e-9)
    worth = [n for n in tried if n == 1 or seconds[n] < 0.899 * seconds[1]]
    assert seconds[chosen] <= min(seconds[n] for n in worth) * (1 + 1e-9)


def test_a_number_that_is_given_holds_for_all_work(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads.begin_run(1)
    assert threads.choice("training").chosen == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.begin_run(None)
    assert torch.get_num_threads() == 2
    assert threads.choice("training").chosen == 2


def test_batches_pass_through_and_the_log_says_what_was_chosen(monkeypatch, caplog):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    caplog.set_level("INFO")
    threads.begin_run(None)
    batches = [{"input_ids": torch.zeros(2, n)} for n in range(1, 12)]
    assert list(threads.paced(batches, "measuring")) == batches
    assert threads.choice("measuring").chosen in (1, 2)
    assert caplog.text.count("measuring: ") == 1
